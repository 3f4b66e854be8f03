// XenCenter's picture: one bar for the host, split by VM.

import { colourOf } from "./colour.js";
import { byId, element, setFacts, setText } from "./element.js";
import { formatBytes, MIB } from "./format.js";

/** A VM narrower than this part of the host has no place for its name: it is a stripe among its like. */
const SMALLEST = 0.004;
const STRIPES_FROM = 40;

/**
 * @typedef {import("./feed.js").Vm} Vm
 * @typedef {{key: string, name: string, bytes: number, kind: string, uuid?: string, vms?: Vm[]}} Part
 */

export class HostBar {
  /** @param {(uuid: string) => void} onChoose */
  constructor(onChoose) {
    this.bar = byId("host-bar");
    this.figures = byId("host-figures");
    this.key = byId("host-key");
    /** @type {Map<string, HTMLElement>} */
    this.segments = new Map();
    /** @type {Vm[]} */
    this.striped = [];
    this.bar.addEventListener("click", (event) => {
      const target = /** @type {HTMLElement} */ (event.target);
      const uuid = target instanceof HTMLCanvasElement
        ? this.#stripeAt(event.offsetX / target.clientWidth)
        : target.closest("[data-uuid]")?.getAttribute("data-uuid");
      if (uuid) onChoose(uuid);
    });
  }

  /** @param {import("./feed.js").Feed} feed */
  show(feed) {
    const host = feed.common.host;
    if (host.total_bytes === undefined) return;
    const parts = split(host, [...feed.vms.values()]);
    const held = parts.filter((part) => part.kind === "vm" || part.kind === "rest");
    const heldBytes = held.reduce((sum, part) => sum + part.bytes, 0);
    setFacts(this.figures, [
      ["physical", formatBytes(host.total_bytes)],
      ["held by VMs", formatBytes(heldBytes)],
      ["free", formatBytes(host.free_bytes + host.scrub_bytes)],
      ["set aside", formatBytes(host.reserved_bytes)],
      ["free for anyone", formatBytes(Math.max(0, host.spare_bytes))],
    ]);
    this.#draw(parts, host.total_bytes);
    const largest = [...held].sort((a, b) => b.bytes - a.bytes).slice(0, 5);
    const told = largest.map((part) => `${part.name} ${formatBytes(part.bytes)}`).join(", ");
    this.bar.setAttribute(
      "aria-label",
      `Host memory, ${formatBytes(host.total_bytes)}: ${formatBytes(host.free_bytes)} free, VMs hold ${formatBytes(heldBytes)}. The largest: ${told}.`,
    );
    this.#explain(parts);
  }

  /**
   * @param {Part[]} parts
   * @param {number} total
   */
  #draw(parts, total) {
    const seen = new Set();
    parts.forEach((part, at) => {
      let segment = this.segments.get(part.key);
      if (!segment) {
        segment = element("div", { class: `segment ${part.kind}` }, element("span", { class: "name" }), element("span", { class: "size" }));
        if (part.vms) segment.append(element("canvas"));
        if (part.uuid) {
          segment.dataset.uuid = part.uuid;
          segment.classList.add(colourOf(part.uuid));
        }
        this.segments.set(part.key, segment);
      }
      seen.add(part.key);
      segment.style.flexGrow = String(part.bytes / total);
      setText(segment.children[0], part.name);
      setText(segment.children[1], formatBytes(part.bytes));
      segment.title = `${part.name}: ${formatBytes(part.bytes)}`;
      if (this.bar.children[at] !== segment) this.bar.insertBefore(segment, this.bar.children[at] ?? null);
      if (part.vms) this.#stripe(/** @type {HTMLCanvasElement} */ (segment.querySelector("canvas")), part);
    });
    for (const [key, segment] of this.segments) {
      if (!seen.has(key)) {
        segment.remove();
        this.segments.delete(key);
      }
    }
  }

  /**
   * Draw many small VMs, each a stripe in its colour.
   * @param {HTMLCanvasElement} canvas
   * @param {Part} part
   */
  #stripe(canvas, part) {
    this.striped = part.vms ?? [];
    canvas.width = Math.round(canvas.clientWidth * devicePixelRatio);
    canvas.height = 1;
    const pen = canvas.getContext("2d");
    const style = getComputedStyle(document.documentElement);
    if (pen === null) return;
    let left = 0;
    for (const vm of this.striped) {
      const width = (canvas.width * vm.actual_bytes) / part.bytes;
      pen.fillStyle = style.getPropertyValue(colourOf(vm.uuid).replace("vm-colour", "--vm"));
      pen.fillRect(left, 0, width, 1);
      left += width;
    }
  }

  /**
   * Find the VM whose stripe is there.
   * @param {number} place from 0 to 1
   */
  #stripeAt(place) {
    let rest = place * this.striped.reduce((sum, vm) => sum + vm.actual_bytes, 0);
    return this.striped.find((vm) => (rest -= vm.actual_bytes) <= 0)?.uuid;
  }

  /** @param {Part[]} parts */
  #explain(parts) {
    const shown = parts.filter((part) => part.kind !== "vm");
    while (this.key.children.length > shown.length) this.key.lastElementChild?.remove();
    shown.forEach((part, at) => {
      if (!this.key.children[at]) this.key.append(element("li", {}, element("i"), element("span")));
      const [swatch, text] = this.key.children[at].children;
      swatch.className = `swatch ${part.kind}`;
      setText(text, `${part.name} ${formatBytes(part.bytes)}`);
    });
  }
}

/**
 * Split the host; VMs in the order of their domids, very small ones together.
 * @param {any} host
 * @param {Vm[]} vms
 * @returns {Part[]}
 */
export function split(host, vms) {
  const control = vms.filter((vm) => vm.is_control_domain).reduce((sum, vm) => sum + vm.actual_bytes, 0);
  const running = vms.filter((vm) => vm.domid !== null && !vm.is_control_domain);
  running.sort((a, b) => Number(a.domid) - Number(b.domid));
  const isSmall = (/** @type {Vm} */ vm) => running.length > STRIPES_FROM && vm.actual_bytes < SMALLEST * host.total_bytes;
  const small = running.filter(isSmall);
  const smallBytes = small.reduce((sum, vm) => sum + vm.actual_bytes, 0);
  const slush = Math.min(host.free_bytes, host.slush_bytes);
  const reserved = Math.min(host.free_bytes - slush, host.reserved_bytes);
  const balancedControl = Math.max(0, control - host.others_bytes);
  const xen = host.others_bytes - control;
  /** @type {Part[]} */
  const parts = [
    { key: "control", name: "dom0", bytes: Math.min(control, host.others_bytes) + balancedControl, kind: "control" },
    { key: "xen", name: "Xen", bytes: xen < MIB ? 0 : xen, kind: "xen" },
    ...running.filter((vm) => !isSmall(vm)).map((vm) => (
      { key: vm.uuid, name: vm.name_label, bytes: vm.actual_bytes, kind: "vm", uuid: vm.uuid }
    )),
    { key: "rest", name: `${small.length} small VMs`, bytes: smallBytes, kind: "rest", vms: small },
    { key: "reserved", name: "Set aside", bytes: reserved, kind: "reserved" },
    { key: "scrub", name: "Being cleaned", bytes: host.scrub_bytes, kind: "scrub" },
    { key: "free", name: "Free", bytes: Math.max(0, host.free_bytes - slush - reserved), kind: "free" },
    { key: "slush", name: "Kept free for Xen", bytes: slush, kind: "slush" },
  ];
  return parts.filter((part) => part.bytes > 0);
}
