// One VM: its name, its bar, its figures and why its target is what it is.

import { colourOf } from "./colour.js";
import { element, setText } from "./element.js";
import { formatBytes, MIB } from "./format.js";

/** Another policy's target that differs by less is not worth a word, bytes. */
const NOTABLE = 16 * MIB;

const STATES = {
  at_target: "at target",
  moving: "moving",
  stuck: "stuck",
  at_limit: "at its limit",
  no_balloon: "no balloon driver",
};

/**
 * How a VM stands, in a word or two.
 * @param {import("./feed.js").Vm} vm
 */
export function stateOf(vm) {
  if (vm.power_state !== "Running") return vm.power_state.toLowerCase();
  if (vm.is_being_built) return "being built";
  return vm.state === null ? "not balanced" : STATES[vm.state] ?? vm.state;
}

/** A bar from 0 to static-max: held, dynamic range with a tick at each end, target. */
export class RangeBar {
  constructor() {
    const part = (/** @type {string} */ name) => element("i", { class: name });
    this.band = part("band");
    this.fill = part("fill");
    this.low = part("tick low");
    this.high = part("tick high");
    this.target = part("target");
    this.node = element("div", { class: "range-bar", role: "img" }, this.band, this.fill, this.low, this.high, this.target);
  }

  /** @param {import("./feed.js").Vm} vm */
  show(vm) {
    const whole = Math.max(vm.static_max_bytes, vm.actual_bytes, 1);
    const at = (/** @type {number} */ bytes) => `${Math.min(100, (100 * bytes) / whole).toFixed(3)}%`;
    const isRunning = vm.domid !== null;
    this.band.style.left = this.low.style.left = at(vm.dynamic_min_bytes);
    this.band.style.right = `${Math.max(0, 100 - (100 * vm.dynamic_max_bytes) / whole).toFixed(3)}%`;
    this.high.style.left = at(vm.dynamic_max_bytes);
    this.fill.style.width = at(isRunning ? vm.actual_bytes : 0);
    this.target.style.left = at(vm.target_bytes);
    this.target.hidden = !isRunning;
    const held = isRunning ? `holds ${formatBytes(vm.actual_bytes)}, target ${formatBytes(vm.target_bytes)}, ` : "";
    const label = `${held}dynamic range ${formatBytes(vm.dynamic_min_bytes)} to ${formatBytes(vm.dynamic_max_bytes)}, static-max ${formatBytes(vm.static_max_bytes)}`;
    if (this.node.getAttribute("aria-label") !== label) {
      this.node.setAttribute("aria-label", label);
      this.node.title = label;
    }
  }
}

export class VmRow {
  /**
   * @param {import("./feed.js").Vm} vm
   * @param {{onEdit: (uuid: string) => void, onHour: (uuid: string) => void}} hooks
   */
  constructor(vm, hooks) {
    this.uuid = vm.uuid;
    this.name = element("span", { class: "name" });
    this.number = element("span", { class: "number" });
    this.state = element("span", { class: "state" });
    this.bar = new RangeBar();
    this.actual = element("span", { class: "actual" });
    this.wanted = element("span", { class: "wanted" });
    this.reason = element("p", { class: "reason" });
    this.shadows = element("p", { class: "shadows" });
    this.edit = element("button", { type: "button", class: "edit", tabindex: "-1", onclick: () => hooks.onEdit(this.uuid) }, "Edit");
    this.hour = element("button", { type: "button", class: "quiet hour", tabindex: "-1", onclick: () => hooks.onHour(this.uuid) }, "History");
    this.node = element(
      "div", { class: `vm-row ${colourOf(vm.uuid, vm.is_control_domain)}`, role: "listitem", tabindex: "-1" },
      element("div", { class: "who" }, element("i", { class: "swatch own", "aria-hidden": "true" }), this.name, this.number, this.state),
      this.bar.node,
      element("div", { class: "sizes" }, this.actual, this.wanted),
      this.reason,
      this.shadows,
      element("div", { class: "buttons" }, this.hour, this.edit),
    );
    this.node.dataset.uuid = vm.uuid;
    /** @type {import("./feed.js").Vm | null} */
    this.shown = null;
  }

  /**
   * @param {import("./feed.js").Vm} vm
   * @param {number} position from 1
   * @param {number} count
   */
  show(vm, position, count) {
    this.node.setAttribute("aria-posinset", String(position));
    this.node.setAttribute("aria-setsize", String(count));
    if (this.shown === vm) return;
    this.shown = vm;
    const state = stateOf(vm);
    const isRunning = vm.domid !== null;
    setText(this.name, vm.name_label || "(no name)");
    this.name.title = `${vm.name_label}\n${vm.uuid}`;
    setText(this.number, vm.domid === null ? "" : `domain ${vm.domid}`);
    setText(this.state, state);
    this.state.dataset.state = vm.state ?? (isRunning ? "plain" : "off");
    this.bar.show(vm);
    setText(this.actual, isRunning ? formatBytes(vm.actual_bytes) : "");
    const isOnTheWay = isRunning && formatBytes(vm.actual_bytes) !== formatBytes(vm.target_bytes);
    setText(this.wanted, isOnTheWay ? `→ ${formatBytes(vm.target_bytes)}` : "");
    setText(this.reason, sentence(vm));
    this.reason.title = this.reason.textContent ?? "";
    const others = Object.entries(vm.shadow_targets_bytes).filter(([, bytes]) => Math.abs(bytes - Number(vm.goal_bytes)) >= NOTABLE);
    setText(this.shadows, others.map(([policy, bytes]) => `${policy}: ${formatBytes(bytes)}`).join(", "));
    this.shadows.title = others.length ? "What other policies would have it hold" : "";
    this.edit.hidden = vm.is_control_domain;
    this.edit.setAttribute("aria-label", `Edit the dynamic range of ${vm.name_label}`);
    this.hour.setAttribute("aria-label", `Show the last hour of ${vm.name_label}`);
    this.hour.hidden = !isRunning || vm.state === null;
  }
}

/**
 * Reasons of domains are the end of a sentence, others are whole ones.
 * @param {import("./feed.js").Vm} vm
 */
function sentence(vm) {
  const text = vm.reason;
  if (vm.state === null) return text;
  return `${text[0].toUpperCase()}${text.slice(1)}.`;
}
