// Follows the daemon's events and keeps what they say; `api-spec/state.md` describes it.

/**
 * @typedef {object} Vm
 * @property {string} uuid
 * @property {string} name_label
 * @property {number | null} domid
 * @property {string} power_state
 * @property {boolean} is_control_domain
 * @property {number} static_min_bytes
 * @property {number} dynamic_min_bytes
 * @property {number} dynamic_max_bytes
 * @property {number} static_max_bytes
 * @property {number} target_bytes
 * @property {number} actual_bytes
 * @property {number | null} goal_bytes
 * @property {Record<string, number>} shadow_targets_bytes
 * @property {string | null} state
 * @property {string} reason
 */

const RETRY_MS = [500, 8000];
const SILENCE_MS = 15000;

/**
 * Dispatches `update` after each event, `lost` when the connection is gone and `denied` when reading needs a login.
 */
export class Feed extends EventTarget {
  /** @param {import("./session.js").Session} session */
  constructor(session) {
    super();
    this.session = session;
    /** All but the VMs, as it came last. @type {any} */
    this.common = null;
    /** @type {Map<string, Vm>} */
    this.vms = new Map();
    this.isLive = false;
    this.isDenied = false;
    /** When anything was heard last, by this machine's clock. */
    this.heardAt = performance.now();
    /** The daemon's clock at that moment. */
    this.daemonTime_s = 0;
  }

  /** The daemon's clock now, as far as it can be told. */
  get now_s() {
    return this.daemonTime_s + (performance.now() - this.heardAt) / 1000;
  }

  /** Follow for ever. */
  async run() {
    let pause_ms = RETRY_MS[0];
    for (;;) {
      const wasHeardAt = this.heardAt;
      try {
        await this.#read();
      } catch {
        // Whatever broke the stream, the cure is the same: connect again.
      }
      this.isLive = false;
      this.dispatchEvent(new Event(this.isDenied ? "denied" : "lost"));
      pause_ms = this.heardAt > wasHeardAt ? RETRY_MS[0] : Math.min(pause_ms * 2, RETRY_MS[1]);
      await this.#pause(pause_ms);
    }
  }

  /** @param {number} pause_ms */
  #pause(pause_ms) {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, pause_ms);
      this.session.addEventListener("change", () => { clearTimeout(timer); resolve(null); }, { once: true });
    });
  }

  async #read() {
    const abort = new AbortController();
    let silence = setTimeout(() => abort.abort(), SILENCE_MS);
    try {
      const response = await fetch("api/v1/events", {
        headers: this.session.headers, signal: abort.signal, cache: "no-store", credentials: "same-origin",
      });
      this.isDenied = response.status === 401;
      if (this.isDenied) this.session.lose();
      if (!response.ok || response.body === null) return;
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      for (let rest = ""; ;) {
        const { value, done } = await reader.read();
        if (done) return;
        clearTimeout(silence);
        silence = setTimeout(() => abort.abort(), SILENCE_MS);
        const events = (rest + value).split("\n\n");
        rest = events.pop() ?? "";
        events.forEach((event) => this.#take(event));
      }
    } finally {
      clearTimeout(silence);
      abort.abort();
    }
  }

  /** @param {string} event */
  #take(event) {
    const [name, text] = event.split("\n", 2);
    const { vms = [], gone = [], ...common } = JSON.parse(text.slice("data: ".length));
    if (name === "event: state") this.vms.clear();
    if (name !== "event: heartbeat") this.common = common;
    for (const vm of vms) this.vms.set(vm.uuid, vm);
    for (const uuid of gone) this.vms.delete(uuid);
    this.heardAt = performance.now();
    this.daemonTime_s = common.time_s;
    this.isLive = true;
    this.dispatchEvent(new CustomEvent("update", { detail: name === "event: heartbeat" ? "heartbeat" : "state" }));
  }
}
