"""What ``xcpmemd --help`` says around the settings, which `xcpmem.config` fills in."""

from __future__ import annotations

from typing import Final

HELP: Final = """\
usage: xcpmemd [options]

Balances the memory of a Xen host's domains and serves XenAPI for it.

options; each is also a key of the TOML file, with _ for - (state_dir = "/srv/xcpmem"):
{options}

keys of the TOML file alone:
{keys}

examples:
  xcpmemd                                     a simulated host with six guests on http://127.0.0.1:8080
  xcpmemd --scenario quiet --listen 127.0.0.1:0
  xcpmemd --config /etc/xcpmem/xcpmem.toml --check-config
  xcpmemd --driver xen                        in dom0, as root
  xcpmemd --driver xen --observe              the same, touching nothing: beside another balancer
  xcpmemd --import-squeezed-conf /etc/squeezed.conf >/etc/xcpmem/xcpmem.toml

environment:
  XCPMEM_LOG  overrides log_level: debug, or info,xcpmem.xen=debug for one part of the program
"""
