// Edits a VM's dynamic range in place: what would come of it is shown before it is done.

import { element, setText } from "./element.js";
import { exactSize, formatBytes, formatChange, MIB, parseSize } from "./format.js";
import { Failure } from "./session.js";

/** @typedef {import("./feed.js").Vm} Vm */

const PREVIEW_AFTER_MS = 250;
const TOLD = 12;

export class Editor {
  /**
   * @param {Vm} vm
   * @param {import("./session.js").Session} session
   * @param {{onClose: () => void, onLogin: (why: string) => void}} hooks
   */
  constructor(vm, session, hooks) {
    this.vm = vm;
    this.session = session;
    this.hooks = hooks;
    this.asked = 0;
    this.isBusy = false;
    /** Whether what is shown is the preview of what is typed. */
    this.isPreviewed = false;
    const most = Math.ceil(vm.static_max_bytes / MIB);
    this.low = makeEnd(`low-${vm.uuid}`, "dynamic-min", vm.dynamic_min_bytes, most, () => this.#changed());
    this.high = makeEnd(`high-${vm.uuid}`, "dynamic-max", vm.dynamic_max_bytes, most, () => this.#changed());
    this.band = element("i", { class: "band" });
    this.problem = element("p", { class: "error", role: "alert" });
    this.outlook = element("div", { class: "outlook", "aria-live": "polite" });
    this.applyButton = element("button", { type: "submit", class: "primary" }, "Apply");
    this.node = element(
      "form", { class: "editor", "aria-label": `Dynamic range of ${vm.name_label}`, novalidate: true, onsubmit: (event) => this.#submit(event) },
      element("div", { class: "sliders" }, element("div", { class: "rail" }, this.band), this.low.slider, this.high.slider),
      element("div", { class: "scale", "aria-hidden": "true" }, element("span", {}, "0"), element("span", {}, `static-max ${formatBytes(vm.static_max_bytes)}`)),
      element(
        "div", { class: "ends" },
        this.low.field, this.high.field,
        element("div", { class: "buttons" }, element("button", { type: "button", class: "quiet", onclick: () => hooks.onClose() }, "Cancel"), this.applyButton),
      ),
      this.problem,
      this.outlook,
    );
    this.#drawBand();
    this.#allow();
    if (!session.login?.mayEdit) this.#complain("Your role may look but not change this: log in as somebody who may.");
    else this.#say("Move an end, or type a size, to see what would come of it.");
  }

  /** Put the keyboard at the first field. */
  focus() {
    this.low.input.focus();
    this.low.input.select();
  }

  get #range() {
    return { low: parseSize(this.low.input.value), high: parseSize(this.high.input.value) };
  }

  get #isUnchanged() {
    const { low, high } = this.#range;
    return low === this.vm.dynamic_min_bytes && high === this.vm.dynamic_max_bytes;
  }

  #changed() {
    this.isPreviewed = false;
    this.asked += 1; // An answer that is still to come is about another range.
    this.outlook.removeAttribute("aria-busy");
    this.#drawBand();
    this.#complain("");
    this.#allow();
    clearTimeout(this.timer);
    for (const end of [this.low, this.high]) {
      const isGood = parseSize(end.input.value) !== null;
      end.input.setAttribute("aria-invalid", String(!isGood));
      if (!isGood) {
        this.outlook.replaceChildren();
        this.#complain(`${end.name}: “${end.input.value}” is no size; type for example 512 MiB or 1.5 GiB.`);
        return;
      }
    }
    if (this.#isUnchanged) {
      this.#say("This is the range that it has.");
      return;
    }
    this.timer = setTimeout(() => this.preview(), PREVIEW_AFTER_MS);
  }

  /** Ask what would come of the range. */
  async preview() {
    const { low, high } = this.#range;
    this.asked += 1;
    const asked = this.asked;
    this.outlook.setAttribute("aria-busy", "true");
    try {
      const wishes = { vm: this.vm.uuid, dynamic_min: String(low), dynamic_max: String(high) };
      const plan = JSON.parse(await this.session.call("Memory.plan", wishes));
      if (asked !== this.asked) return;
      this.#show(plan);
    } catch (error) {
      if (asked !== this.asked) return;
      this.#cannotPreview(error);
    } finally {
      if (asked === this.asked) this.outlook.removeAttribute("aria-busy");
      this.#allow();
    }
  }

  /** @param {unknown} error */
  #cannotPreview(error) {
    if (error instanceof Failure && error.code === "MESSAGE_METHOD_UNKNOWN") {
      this.isPreviewed = true;
      this.#say("This daemon cannot say what would come of it. It checks the range when it is applied.");
    } else if (error instanceof Failure && error.code === "RBAC_PERMISSION_DENIED") {
      this.isPreviewed = true;
      this.#say("Your role may not ask what would come of it.");
    } else {
      this.outlook.replaceChildren();
      this.#complain(/** @type {Error} */ (error).message);
      if (this.session.login === null) this.hooks.onLogin("Your session has ended.");
    }
  }

  /** @param {any} plan what `Memory.plan` answers */
  #show(plan) {
    if (!plan.feasible) {
      const [code, ...params] = plan.error;
      this.outlook.replaceChildren();
      this.#complain(this.#explain(new Failure(code, params)));
      return;
    }
    this.isPreviewed = true;
    const moves = Object.entries(plan.domains)
      .map(([uuid, domain]) => ({ uuid, ...domain, change: (domain.after_kib - domain.before_kib) * 1024 }))
      .filter((move) => Math.abs(move.change) >= MIB || move.uuid === this.vm.uuid)
      .sort((a, b) => Number(b.uuid === this.vm.uuid) - Number(a.uuid === this.vm.uuid) || Math.abs(b.change) - Math.abs(a.change));
    if (!moves.some((move) => Math.abs(move.change) >= MIB)) {
      this.#say("Nobody would have to move.");
      return;
    }
    const rows = moves.slice(0, TOLD).map((move) => element(
      "tr", {},
      element("th", { scope: "row" }, move.name_label),
      element("td", {}, formatBytes(move.before_kib * 1024)),
      element("td", {}, formatBytes(move.after_kib * 1024)),
      element("td", { class: move.change < 0 ? "less" : "more" }, formatChange(move.change)),
      element("td", { class: "why" }, move.reason),
    ));
    const rest = moves.length - rows.length;
    this.outlook.replaceChildren(
      element(
        "table", {},
        element("caption", {}, "What would come of it"),
        element("thead", {}, element("tr", {}, ...["VM", "holds", "would hold", "change", "because it"].map((head) => element("th", { scope: "col" }, head)))),
        element("tbody", {}, ...rows),
      ),
      ...(rest > 0 ? [element("p", {}, `and ${rest} more`)] : []),
    );
  }

  /** @param {Event} event */
  async #submit(event) {
    event.preventDefault();
    if (!this.isPreviewed || this.isBusy || this.#isUnchanged) return;
    this.isBusy = true;
    this.#allow();
    try {
      const { low, high } = this.#range;
      const ref = await this.session.call("VM.get_by_uuid", this.vm.uuid);
      await this.session.call("VM.set_memory_dynamic_range", ref, String(low), String(high));
      this.hooks.onClose();
    } catch (error) {
      this.#complain(error instanceof Failure ? this.#explain(error) : /** @type {Error} */ (error).message);
      if (this.session.login === null) this.hooks.onLogin("Your session has ended.");
    } finally {
      this.isBusy = false;
      this.#allow();
    }
  }

  /**
   * Say why a range was refused; of a bad order, which sizes contradict each other.
   * @param {Failure} failure
   */
  #explain(failure) {
    if (!failure.code.startsWith("MEMORY_CONSTRAINT_VIOLATION")) return failure.message;
    const { low, high } = this.#range;
    const order = [
      ["static-min", this.vm.static_min_bytes], ["dynamic-min", low], ["dynamic-max", high], ["static-max", this.vm.static_max_bytes],
    ];
    for (let at = 0; at + 1 < order.length; at += 1) {
      const [[below, least], [above, most]] = [order[at], order[at + 1]];
      if (Number(least) > Number(most)) {
        return `Refused: ${below} ${formatBytes(Number(least))} is above ${above} ${formatBytes(Number(most))}. `
          + "The order static-min ≤ dynamic-min ≤ dynamic-max ≤ static-max must hold.";
      }
    }
    return failure.message;
  }

  #allow() {
    /** @type {HTMLButtonElement} */ (this.applyButton).disabled = this.isBusy || !this.isPreviewed || !this.session.login?.mayEdit;
  }

  /** @param {string} text */
  #complain(text) {
    setText(this.problem, text);
  }

  /** @param {string} text */
  #say(text) {
    this.outlook.replaceChildren(element("p", { class: "hint" }, text));
  }

  #drawBand() {
    const { low, high } = this.#range;
    if (low === null || high === null) return;
    const most = Math.max(1, this.vm.static_max_bytes);
    this.band.style.left = `${Math.min(100, (100 * Math.min(low, high)) / most)}%`;
    this.band.style.right = `${Math.max(0, 100 - (100 * Math.max(low, high)) / most)}%`;
    this.band.classList.toggle("wrong", low > high);
  }
}

/**
 * Make one end of the range: a slider and a field that follow each other.
 * @param {string} id
 * @param {string} name
 * @param {number} bytes
 * @param {number} most MiB
 * @param {() => void} onChange
 */
function makeEnd(id, name, bytes, most, onChange) {
  const input = /** @type {HTMLInputElement} */ (element("input", { id, type: "text", autocomplete: "off", spellcheck: "false", inputmode: "text" }));
  const slider = /** @type {HTMLInputElement} */ (element("input", { type: "range", min: "0", max: String(most), step: "1", "aria-label": name }));
  const follow = (/** @type {number} */ size) => {
    slider.value = String(Math.round(size / MIB));
    slider.setAttribute("aria-valuetext", formatBytes(size));
  };
  input.value = exactSize(bytes);
  follow(bytes);
  slider.addEventListener("input", () => {
    const size = Number(slider.value) * MIB;
    input.value = exactSize(size);
    slider.setAttribute("aria-valuetext", formatBytes(size));
    onChange();
  });
  slider.addEventListener("keydown", (event) => {
    // One MiB a step is too little for keys: 64 of them, and 1 with Shift.
    const direction = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1 }[event.key];
    if (direction === undefined) return;
    event.preventDefault();
    slider.value = String(Number(slider.value) + direction * (event.shiftKey ? 1 : 64));
    slider.dispatchEvent(new Event("input"));
  });
  input.addEventListener("input", () => {
    const size = parseSize(input.value);
    if (size !== null) follow(size);
    onChange();
  });
  return { name, input, slider, field: element("div", { class: "field" }, element("label", { for: id }, name), input) };
}
