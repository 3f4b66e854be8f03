"""What `make run` says before the daemon serves."""

from __future__ import annotations

import socket
from contextlib import closing
from pathlib import Path

from xcpmem.demo import choose_address, choose_state_dir, greeting
from xcpmem.readers import Address


def test_usual_address_is_chosen_when_it_is_free() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as listening:
        free = Address("127.0.0.1", listening.getsockname()[1])
    assert choose_address(free) == free


def test_free_port_is_chosen_and_said_when_another_program_has_the_usual_one() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as listening:
        taken = Address("127.0.0.1", listening.getsockname()[1])
        chosen = choose_address(taken)
    assert chosen.host == "127.0.0.1"
    assert chosen.port not in {0, taken.port}
    said = greeting(chosen, Path("/srv/run"), taken=taken)
    assert f"{taken} is taken by another program, so this one serves on {chosen}." in said
    assert f"where     http://{chosen} " in said


def test_state_is_kept_below_the_working_directory_unless_its_path_is_too_long_for_sockets() -> None:
    assert choose_state_dir(Path("/src/xcpmem"), Path("/home/u")) == Path("/src/xcpmem/.run")
    assert choose_state_dir(Path("/" + "deep/" * 20), Path("/home/u")) == Path("/home/u/.xcpmem-run")


def test_greeting_names_paths_as_one_would_type_them() -> None:
    said = greeting(Address("127.0.0.1", 8080), Path.cwd() / ".run")
    assert "password in .run/root.password" in said
    assert f"/xcpmem -s {Path.cwd()}/.run/xcpmem.sock vm-list" in said
    assert "taken" not in said
