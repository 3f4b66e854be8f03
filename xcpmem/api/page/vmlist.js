// The list of VMs. Only rows in sight exist, so a thousand VMs are as quick as ten.

import { byId, setText } from "./element.js";
import { stateOf, VmRow } from "./vmrow.js";

/** @typedef {import("./feed.js").Vm} Vm */

const OVERSCAN = 6;
const PAGE = 10;
const SORT_MS = 1000;

/** @type {Record<string, (vm: Vm) => number | string>} */
const ORDERS = {
  domid: (vm) => vm.domid ?? Number.MAX_SAFE_INTEGER,
  name: (vm) => vm.name_label.toLowerCase(),
  actual: (vm) => -vm.actual_bytes,
  distance: (vm) => (vm.domid === null ? 1 : -Math.abs(vm.actual_bytes - vm.target_bytes)),
  share: (vm) => -(vm.target_bytes - vm.dynamic_min_bytes) / Math.max(1, vm.dynamic_max_bytes - vm.dynamic_min_bytes),
  state: (vm) => stateOf(vm),
};

export class VmList {
  /**
   * @param {{onEdit: (uuid: string) => void, onHour: (uuid: string) => void, onClose: () => boolean}} hooks
   */
  constructor(hooks) {
    this.hooks = hooks;
    this.root = byId("vms");
    this.empty = byId("vm-empty");
    this.count = byId("vm-count");
    this.filter = /** @type {HTMLInputElement} */ (byId("filter"));
    this.sort = /** @type {HTMLSelectElement} */ (byId("sort"));
    /** @type {Map<string, Vm>} */
    this.vms = new Map();
    /** @type {Vm[]} */
    this.shown = [];
    /** @type {Map<string, VmRow>} */
    this.rows = new Map();
    /** The VM that the keyboard is at. */
    this.current = "";
    /** @type {{uuid: string, node: HTMLElement} | null} */
    this.panel = null;
    this.panelHeight = 0;
    this.sortedAt = -Infinity;
    this.isFiltered = false;
    this.isDrawing = false;
    this.rowHeight = 0;
    this.#listen();
  }

  /** @param {Map<string, Vm>} vms */
  show(vms) {
    this.vms = vms;
    if (performance.now() - this.sortedAt >= SORT_MS || this.shown.some((vm) => !vms.has(vm.uuid))) {
      this.arrange();
    } else {
      this.shown = this.shown.map((vm) => vms.get(vm.uuid) ?? vm);
      this.draw();
    }
  }

  /** Filter and sort anew. */
  arrange() {
    const words = this.filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    const key = ORDERS[this.sort.value];
    const fits = (/** @type {Vm} */ vm) => {
      const text = `${vm.name_label} ${vm.uuid} ${stateOf(vm)} ${vm.domid === null ? "" : `domain ${vm.domid}`}`.toLowerCase();
      return words.every((word) => text.includes(word));
    };
    this.shown = [...this.vms.values()].filter((vm) => fits(vm) || vm.uuid === this.panel?.uuid);
    this.shown.sort((a, b) => compare(key(a), key(b)) || compare(a.name_label, b.name_label) || compare(a.uuid, b.uuid));
    this.isFiltered = words.length > 0;
    this.sortedAt = performance.now();
    this.draw();
  }

  /** Draw soon: all that changes until then is one drawing. */
  draw() {
    if (this.isDrawing) return;
    this.isDrawing = true;
    requestAnimationFrame(() => {
      this.isDrawing = false;
      this.#draw();
    });
  }

  /**
   * Open a panel below a VM's row.
   * @param {string} uuid
   * @param {HTMLElement} node
   */
  open(uuid, node) {
    this.close();
    this.panel = { uuid, node };
    this.current = uuid;
    this.root.append(node);
    this.sizes.observe(node);
    this.panelHeight = node.offsetHeight;
    this.arrange();
    this.reveal(uuid);
  }

  /** Close the panel. */
  close() {
    if (this.panel === null) return;
    const { uuid, node } = this.panel;
    const hadFocus = node.contains(document.activeElement);
    this.sizes.unobserve(node);
    node.remove();
    this.panel = null;
    this.panelHeight = 0;
    this.arrange();
    if (hadFocus) this.#goTo(uuid);
  }

  /**
   * Bring a VM into sight and the keyboard to it.
   * @param {string} uuid
   */
  choose(uuid) {
    if (!this.shown.some((vm) => vm.uuid === uuid)) {
      this.filter.value = "";
      this.arrange();
    }
    this.#goTo(uuid);
  }

  /** @param {string} uuid */
  reveal(uuid) {
    const at = this.#indexOf(uuid);
    if (at < 0) return;
    const top = this.root.getBoundingClientRect().top + window.scrollY + this.#topOf(at);
    const height = this.rowHeight + (this.panel?.uuid === uuid ? this.panelHeight : 0);
    const head = /** @type {HTMLElement} */ (document.querySelector("header.top")).offsetHeight + 8;
    if (top - head < window.scrollY) window.scrollTo({ top: top - head });
    else if (top + height + 8 > window.scrollY + window.innerHeight) {
      window.scrollTo({ top: Math.min(top - head, top + height + 8 - window.innerHeight) });
    }
  }

  #listen() {
    const redraw = () => this.draw();
    window.addEventListener("scroll", redraw, { passive: true });
    window.addEventListener("resize", () => { this.rowHeight = 0; redraw(); });
    this.sizes = new ResizeObserver(() => {
      this.panelHeight = this.panel?.node.offsetHeight ?? 0;
      redraw();
    });
    this.filter.addEventListener("input", () => this.arrange());
    this.filter.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && this.filter.value) {
        this.filter.value = "";
        this.arrange();
        event.preventDefault();
      } else if ((event.key === "ArrowDown" || event.key === "Enter") && this.shown.length) {
        this.#goTo(this.shown[0].uuid);
        event.preventDefault();
      }
    });
    this.sort.addEventListener("change", () => this.arrange());
    this.root.addEventListener("keydown", (event) => this.#onKey(event));
    this.root.addEventListener("focusin", (event) => {
      const row = /** @type {HTMLElement} */ (event.target).closest(".vm-row");
      if (row instanceof HTMLElement && row.dataset.uuid && row.dataset.uuid !== this.current) {
        this.current = row.dataset.uuid;
        this.draw();
      }
    });
    document.addEventListener("keydown", (event) => {
      const isTyping = event.target instanceof Element && event.target.matches("input, select, textarea");
      if (event.key === "/" && !isTyping && !event.ctrlKey && !event.metaKey && !event.altKey) {
        this.filter.focus();
        this.filter.select();
        event.preventDefault();
      }
    });
  }

  /** @param {KeyboardEvent} event */
  #onKey(event) {
    if (event.key === "Escape") {
      if (this.hooks.onClose()) event.preventDefault();
      return;
    }
    const row = event.target instanceof HTMLElement && event.target.matches(".vm-row") ? event.target : null;
    if (row === null || event.ctrlKey || event.metaKey || event.altKey) return;
    const at = this.#indexOf(this.current);
    const last = this.shown.length - 1;
    /** @type {Record<string, () => void>} */
    const moves = {
      ArrowDown: () => this.#goTo(this.shown[Math.min(last, at + 1)].uuid),
      ArrowUp: () => (at <= 0 ? this.filter.focus() : this.#goTo(this.shown[at - 1].uuid)),
      PageDown: () => this.#goTo(this.shown[Math.min(last, at + PAGE)].uuid),
      PageUp: () => this.#goTo(this.shown[Math.max(0, at - PAGE)].uuid),
      Home: () => this.#goTo(this.shown[0].uuid),
      End: () => this.#goTo(this.shown[last].uuid),
      Enter: () => this.hooks.onEdit(this.current),
      h: () => this.hooks.onHour(this.current),
    };
    const move = moves[event.key];
    if (move) {
      event.preventDefault();
      move();
    }
  }

  /** @param {string} uuid */
  #goTo(uuid) {
    this.current = uuid;
    this.reveal(uuid);
    this.#draw();
    this.rows.get(uuid)?.node.focus({ preventScroll: true });
  }

  /** @param {string} uuid */
  #indexOf(uuid) {
    return this.shown.findIndex((vm) => vm.uuid === uuid);
  }

  /** @param {number} at */
  #topOf(at) {
    const opened = this.panel === null ? -1 : this.#indexOf(this.panel.uuid);
    return at * this.rowHeight + (opened >= 0 && at > opened ? this.panelHeight : 0);
  }

  #draw() {
    this.#tell();
    if (!this.rowHeight) this.rowHeight = parseFloat(getComputedStyle(this.root).getPropertyValue("--row-height")) || 76;
    if (this.#indexOf(this.current) < 0) this.current = this.shown[0]?.uuid ?? "";
    const opened = this.panel === null ? -1 : this.#indexOf(this.panel.uuid);
    this.root.style.height = `${this.shown.length * this.rowHeight + (opened >= 0 ? this.panelHeight : 0)}px`;
    const top = -this.root.getBoundingClientRect().top;
    const beyond = opened >= 0 && top > this.#topOf(opened + 1) ? this.panelHeight : 0;
    const first = Math.max(0, Math.floor((top - beyond) / this.rowHeight) - OVERSCAN);
    const end = Math.min(this.shown.length, Math.ceil((top + window.innerHeight) / this.rowHeight) + OVERSCAN);
    const wanted = new Set();
    for (let at = first; at < end; at += 1) wanted.add(at);
    const kept = this.#indexOf(this.current);
    if (kept >= 0) wanted.add(kept);
    const seen = new Set([...wanted].map((at) => this.shown[at].uuid));
    for (const [uuid, row] of this.rows) {
      if (!seen.has(uuid)) {
        row.node.remove();
        this.rows.delete(uuid);
      }
    }
    for (const at of [...wanted].sort((a, b) => a - b)) this.#place(at);
    if (this.panel !== null && opened >= 0) {
      this.panel.node.style.transform = `translateY(${(opened + 1) * this.rowHeight}px)`;
    }
  }

  /** Say how many there are. Drawn with the rows, so that the two never contradict each other. */
  #tell() {
    setText(this.count, this.isFiltered ? `${this.shown.length} of ${this.vms.size}` : String(this.vms.size));
    this.empty.hidden = this.shown.length > 0;
    setText(this.empty, this.vms.size ? "No VM fits the filter." : "There are no VMs.");
  }

  /** @param {number} at */
  #place(at) {
    const vm = this.shown[at];
    let row = this.rows.get(vm.uuid);
    if (!row) {
      row = new VmRow(vm, this.hooks);
      this.rows.set(vm.uuid, row);
      this.root.append(row.node);
    }
    row.node.style.transform = `translateY(${this.#topOf(at)}px)`;
    const isCurrent = vm.uuid === this.current;
    row.node.tabIndex = isCurrent ? 0 : -1;
    row.edit.tabIndex = row.hour.tabIndex = isCurrent ? 0 : -1;
    row.node.classList.toggle("opened", this.panel?.uuid === vm.uuid);
    row.show(vm, at + 1, this.shown.length);
  }
}

/**
 * @param {number | string} a
 * @param {number | string} b
 */
function compare(a, b) {
  return a < b ? -1 : a > b ? 1 : 0;
}
