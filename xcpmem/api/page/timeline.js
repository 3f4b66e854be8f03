// The last hour of the host or of one VM, with what was decided marked; drawn by uPlot.

import { byId, element, setText } from "./element.js";
import { formatBytes, formatTime } from "./format.js";

/* global uPlot */

const HOUR_S = 3600;
const APPEND_EVERY_S = 1;
const DECISIONS_SHOWN = 60;
const DECISIONS_AFTER_MS = 2500;

/** @type {Record<string, {columns: Array<{name: string, label: string, colour: string, dash?: number[], fill?: string, stepped?: boolean, width?: number}>}>} */
const PICTURES = {
  host: {
    columns: [
      { name: "held_bytes", label: "held by VMs", colour: "--line-1", fill: "--line-1-fill", width: 2 },
      { name: "target_bytes", label: "targets", colour: "--line-target", dash: [6, 4], stepped: true, width: 1.5 },
      { name: "free_bytes", label: "free", colour: "--line-2", width: 1.5 },
      { name: "reserved_bytes", label: "set aside", colour: "--line-3", stepped: true, width: 1.5 },
    ],
  },
  vm: {
    columns: [
      { name: "actual_bytes", label: "held", colour: "--line-1", fill: "--line-1-fill", width: 2 },
      { name: "target_bytes", label: "target", colour: "--line-target", dash: [6, 4], stepped: true, width: 1.5 },
      { name: "dynamic_min_bytes", label: "dynamic-min", colour: "--line-limit", stepped: true, width: 1 },
      { name: "dynamic_max_bytes", label: "dynamic-max", colour: "--line-limit", stepped: true, width: 1 },
    ],
  },
};

export class Timeline {
  /** @param {import("./session.js").Session} session */
  constructor(session) {
    this.session = session;
    this.root = byId("hour-chart");
    this.list = byId("decisions");
    this.back = byId("hour-host");
    this.uuid = "";
    this.isLoaded = false;
    this.isWanted = false;
    /** @type {Array<Array<number | null>>} times first, then a column for each figure */
    this.data = [];
    /** @type {any[]} */
    this.decisions = [];
    this.told = "";
    this.back.addEventListener("click", () => this.choose("", ""));
    new ResizeObserver(() => this.#resize()).observe(this.root);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.redraw());
  }

  get #picture() {
    return PICTURES[this.uuid ? "vm" : "host"];
  }

  /**
   * Show a VM, or the host where the uuid is empty.
   * @param {string} uuid
   * @param {string} name
   */
  choose(uuid, name) {
    this.uuid = uuid;
    this.isLoaded = false;
    setText(byId("hour-of"), uuid ? name : "host");
    this.back.hidden = uuid === "";
    void this.load();
  }

  /** Get the hour from the daemon. */
  async load() {
    const hour = await this.#fetch();
    if (hour === null) return;
    this.data = [hour.times_s, ...this.#picture.columns.map((column) => hour[column.name] ?? hour.times_s.map(() => null))];
    this.decisions = hour.decisions;
    this.isLoaded = true;
    this.redraw();
    this.#tell();
  }

  /**
   * Add the present moment.
   * @param {import("./feed.js").Feed} feed
   * @param {boolean} isNews whether something happened since the last one
   */
  append(feed, isNews) {
    if (!this.isLoaded || !feed.common.ring.sees_host) return;
    const now_s = feed.now_s;
    const times = this.data[0];
    const last = times.length - 1;
    // What is known holds until something else is, so it is drawn up to now; a point a second is enough.
    if (last > 0 && now_s < Number(times[last - 1]) + APPEND_EVERY_S) this.data.forEach((column) => column.pop());
    times.push(now_s);
    this.#figures(feed).forEach((figure, at) => this.data[at + 1].push(figure));
    while (Number(times[0]) < now_s - HOUR_S) this.data.forEach((column) => column.shift());
    this.#refresh();
    if (isNews) this.#reloadDecisions();
  }

  /** @param {import("./feed.js").Feed} feed */
  #figures(feed) {
    if (this.uuid) {
      const vm = feed.vms.get(this.uuid);
      if (!vm || vm.domid === null) return [null, null, null, null];
      return [vm.actual_bytes, vm.target_bytes, vm.dynamic_min_bytes, vm.dynamic_max_bytes];
    }
    const balanced = [...feed.vms.values()].filter((vm) => vm.state !== null);
    const sum = (/** @type {(vm: any) => number} */ read) => balanced.reduce((total, vm) => total + read(vm), 0);
    const { host } = feed.common;
    return [sum((vm) => vm.actual_bytes), sum((vm) => vm.target_bytes), host.free_bytes + host.scrub_bytes, host.reserved_bytes];
  }

  /** Ask for decisions again soon, since something moved. */
  #reloadDecisions() {
    if (this.isWanted) return;
    this.isWanted = true;
    setTimeout(async () => {
      this.isWanted = false;
      const hour = await this.#fetch();
      if (hour === null) return;
      this.decisions = hour.decisions;
      this.#tell();
      this.chart?.redraw(false);
    }, DECISIONS_AFTER_MS);
  }

  /** Get the hour of what is shown; null where there is none: the feed tells why, and asks again later. */
  async #fetch() {
    const { uuid } = this;
    const query = uuid ? `?vm=${encodeURIComponent(uuid)}` : "";
    try {
      const response = await fetch(`api/v1/timeline${query}`, { headers: this.session.headers, cache: "no-store" });
      const hour = response.ok ? await response.json() : null;
      return uuid === this.uuid ? hour : null;
    } catch {
      return null;
    }
  }

  /** Make the chart anew, in the colours of the theme. */
  redraw() {
    if (!this.isLoaded) return;
    this.chart?.destroy();
    const colour = (/** @type {string} */ name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
    const axis = {
      stroke: colour("--muted"), grid: { stroke: colour("--grid"), width: 1 }, ticks: { stroke: colour("--grid"), width: 1, size: 4 },
      font: "12px system-ui, sans-serif",
    };
    this.chart = new uPlot({
      ...this.#size,
      padding: [10, 12, 0, 0],
      cursor: { y: false, points: { size: 7 } },
      scales: { x: { time: true }, y: { range: (_, __, most) => [0, Math.max(most * 1.05, 2 ** 20)] } },
      legend: { live: true },
      axes: [
        { ...axis, values: (chart, times) => labelTimes(chart, times), space: 80, size: 32 },
        { ...axis, size: 64, values: (_, sizes) => sizes.map(formatBytes), incrs: [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 65536, 262144].map((size) => size * 2 ** 26) },
      ],
      series: [
        { label: "at", value: (chart, time, _, at) => formatTime(at === null ? chart.data[0].at(-1) : time) },
        ...this.#picture.columns.map((column) => ({
          label: column.label, stroke: colour(column.colour), width: column.width, dash: column.dash,
          fill: column.fill ? colour(column.fill) : undefined, points: { show: false },
          paths: column.stepped ? uPlot.paths.stepped({ align: 1 }) : undefined,
          value: (chart, size, series, at) => formatBytes(at === null ? chart.data[series].at(-1) : size),
        })),
      ],
      hooks: { draw: [(chart) => this.#mark(chart, colour("--mark"))] },
    }, this.data, this.root);
    this.#refresh();
  }

  get #size() {
    return { width: Math.max(200, this.root.clientWidth), height: this.root.clientWidth < 500 ? 200 : 260 };
  }

  #resize() {
    this.chart?.setSize(this.#size);
  }

  #refresh() {
    if (!this.chart) return;
    const last = Number(this.data[0].at(-1) ?? Date.now() / 1000);
    this.chart.setData(this.data, false);
    this.chart.setScale("x", { min: Math.max(last - HOUR_S, Math.min(Number(this.data[0][0] ?? last), last - 120)), max: last });
  }

  /**
   * Mark each decision at the foot of the chart.
   * @param {any} chart
   * @param {string} colour
   */
  #mark(chart, colour) {
    const { ctx, bbox } = chart;
    const size = 5 * devicePixelRatio;
    ctx.save();
    ctx.fillStyle = colour;
    for (const decision of this.decisions) {
      const x = chart.valToPos(decision.time_s, "x", true);
      if (x < bbox.left || x > bbox.left + bbox.width) continue;
      const foot = bbox.top + bbox.height;
      ctx.beginPath();
      ctx.moveTo(x, foot - 1.6 * size);
      ctx.lineTo(x + size, foot);
      ctx.lineTo(x - size, foot);
      ctx.fill();
    }
    ctx.restore();
  }

  /** Tell the decisions in words, the latest first. */
  #tell() {
    const told = JSON.stringify(this.decisions);
    if (told === this.told) return;
    this.told = told;
    const items = [];
    for (const decision of [...this.decisions].reverse()) {
      const sentences = decision.targets.map((target) => element(
        "span", { class: "sentence" },
        this.uuid ? null : element("b", {}, target.name_label), this.uuid ? null : " ",
        `${formatBytes(target.before_bytes)} → ${formatBytes(target.after_bytes)}: ${target.reason}`,
      ));
      sentences.push(...decision.notes.map((note) => element("span", { class: "sentence" }, note)));
      if (decision.further_targets && !(this.uuid && decision.targets.length)) {
        const text = this.uuid ? "its target was changed, with many others" : `and ${decision.further_targets} more targets`;
        sentences.push(element("span", { class: "sentence" }, text));
      }
      items.push(element("li", {}, element("time", {}, formatTime(decision.time_s)), element("div", {}, ...sentences)));
      if (items.length >= DECISIONS_SHOWN) break;
    }
    if (!items.length) items.push(element("li", { class: "none" }, "Nothing was decided in this hour."));
    this.list.replaceChildren(...items);
    const what = this.uuid ? "This VM's memory" : "The host's memory";
    this.root.setAttribute("aria-label", `${what} over the last hour; ${this.decisions.length} times something was decided, told below.`);
  }
}

/**
 * Label the axis of time; seconds only where minutes would repeat.
 * @param {any} chart
 * @param {number[]} times
 */
function labelTimes(chart, times) {
  const { min, max } = chart.scales.x;
  return times.map((time) => formatTime(time).slice(0, max - min < 600 ? 8 : 5));
}
