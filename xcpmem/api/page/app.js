// Puts the page together: what the feed says goes to each part, what people do goes to the daemon.

import { Editor } from "./editor.js";
import { byId, element, setFacts, setText } from "./element.js";
import { Feed } from "./feed.js";
import { formatBytes, formatDuration, formatSpan, formatTime } from "./format.js";
import { HostBar } from "./hostbar.js";
import { Session } from "./session.js";
import { Timeline } from "./timeline.js";
import { VmList } from "./vmlist.js";

const TICK_MS = 500;
const THEMES = { "": "Theme: auto", light: "Theme: light", dark: "Theme: dark" };

const session = new Session();
const feed = new Feed(session);
const timeline = new Timeline(session);
const vms = new VmList({ onEdit: edit, onHour: showHour, onClose: closeEditor });
const hostBar = new HostBar((uuid) => vms.choose(uuid));
const login = /** @type {HTMLDialogElement} */ (byId("login"));
/** What is to be done once somebody has logged in. @type {(() => void) | null} */
let afterLogin = null;

// What the daemon says

feed.addEventListener("update", (event) => {
  const isNews = /** @type {CustomEvent} */ (event).detail === "state";
  if (isNews) {
    showHost();
    hostBar.show(feed);
    vms.show(feed.vms);
    showWaits();
  }
  if (timeline.isLoaded) timeline.append(feed, isNews);
  else void timeline.load().then(() => timeline.append(feed, false));
  showAge();
});
feed.addEventListener("lost", () => {
  timeline.isLoaded = false;
  showAge();
});
feed.addEventListener("denied", () => {
  showAge();
  if (!login.open) askLogin("Reading from another machine needs a login.");
});

function showHost() {
  const { host, version } = feed.common;
  setText(byId("host-name"), host.name_label);
  setText(byId("host-facts"), [host.driver === "simulated" ? "simulated host" : "Xen", `policy ${host.policy}`, ...(host.observes ? ["looks only, touches nothing"] : [])].join(" · "));
  setText(byId("version"), `xcpmem ${version}`);
  document.title = `${host.name_label} – xcpmem`;
}

function showWaits() {
  const { requests, reservations } = feed.common;
  const nameOf = (/** @type {any} */ each) => feed.vms.get(each.vm_uuid)?.name_label ?? each.owner_name;
  const rows = [
    ...requests.map((/** @type {any} */ each) => ({
      title: `${formatBytes(each.min_bytes)}${each.max_bytes > each.min_bytes ? ` to ${formatBytes(each.max_bytes)}` : ""} for ${nameOf(each)}`,
      text: `waits ${each.waits_for}; gives up in ${formatSpan(each.ends_in_s)}`,
      kind: "request",
    })),
    ...reservations.map((/** @type {any} */ each) => ({
      title: `${formatBytes(each.size_bytes)} for ${nameOf(each)}`, text: `is kept ${each.waits_for}`, kind: "reservation",
    })),
  ];
  const list = byId("waits");
  if (!rows.length) {
    list.replaceChildren(element("li", { class: "none" }, "Nobody waits for memory and nothing is set aside."));
    return;
  }
  list.replaceChildren(...rows.slice(0, 50).map((row) => element("li", { class: row.kind }, element("b", {}, row.title), " ", row.text)));
  if (rows.length > 50) list.append(element("li", { class: "none" }, `and ${rows.length - 50} more`));
}

// How old it is

setInterval(showAge, TICK_MS);

function showAge() {
  const ring = feed.common?.ring;
  const age_s = ring?.looked_at_s === undefined ? null : Math.max(0, feed.now_s - ring.looked_at_s);
  const isBlind = ring !== undefined && !ring.sees_host;
  const isLate = age_s !== null && age_s > 2 * ring.looks_every_s + 5;
  const isOld = !feed.isLive || isBlind || isLate;
  document.body.classList.toggle("old", isOld && feed.common !== null);
  document.body.classList.toggle("live", !isOld);
  const when = age_s === null ? "" : `from ${formatTime(ring.looked_at_s)}, ${formatSpan(age_s)} ago`;
  setText(byId("live-text"), isOld ? (when ? "old" : "connecting") : "live");
  const banner = byId("banner");
  const why = !feed.isLive ? "the daemon does not answer; trying again" : isBlind ? "the daemon cannot see the host" : "the balancer has not looked since";
  banner.hidden = !isOld || !when;
  if (!banner.hidden) setText(banner, `What you see is ${when}: ${why}.`);
  if (ring) {
    setFacts(byId("ring"), [
      ["last look", age_s === null ? "never" : isOld ? `${formatTime(ring.looked_at_s)}, ${formatSpan(age_s)} ago` : `${formatSpan(age_s)} ago`],
      ["turn", String(ring.turn)],
      ["took", ring.duration_s === undefined ? "–" : formatDuration(ring.duration_s)],
      ["host", isBlind ? "cannot be seen" : ring.is_stable ? "at rest" : "memory is moving"],
    ]);
    const texts = ring.failures.map((/** @type {any} */ failure) => failure.text);
    const list = byId("failures");
    if (list.textContent !== texts.join("")) list.replaceChildren(...texts.map((/** @type {string} */ text) => element("li", {}, text)));
  }
}

// What people do

/** @type {Editor | null} */
let editor = null;

/** @param {string} uuid */
function edit(uuid) {
  const vm = feed.vms.get(uuid);
  if (!vm || vm.is_control_domain) return;
  if (vms.panel?.uuid === uuid) {
    closeEditor();
    return;
  }
  if (session.login === null) {
    askLogin(`Changing the memory of ${vm.name_label} needs a login.`, () => edit(uuid));
    return;
  }
  editor = new Editor(vm, session, { onClose: closeEditor, onLogin: (why) => askLogin(why) });
  vms.open(uuid, editor.node);
  editor.focus();
}

function closeEditor() {
  if (editor === null) return false;
  editor = null;
  vms.close();
  return true;
}

/** @param {string} uuid */
function showHour(uuid) {
  const vm = feed.vms.get(uuid);
  if (!vm) return;
  timeline.choose(uuid, vm.name_label);
  byId("hour-heading").scrollIntoView({ block: "center" });
}

/**
 * @param {string} why
 * @param {(() => void) | null} then
 */
function askLogin(why, then = null) {
  afterLogin = then;
  setText(byId("login-why"), why);
  setText(byId("login-error"), "");
  login.showModal();
  byId("login-password").focus();
}

byId("log-in").addEventListener("click", () => {
  if (session.login === null) askLogin("");
  else void session.logOut().catch(() => undefined);
});
byId("login-cancel").addEventListener("click", () => login.close());
login.addEventListener("close", () => {
  /** @type {HTMLInputElement} */ (byId("login-password")).value = "";
});
byId("login-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const user = /** @type {HTMLInputElement} */ (byId("login-user"));
  const password = /** @type {HTMLInputElement} */ (byId("login-password"));
  const submit = /** @type {HTMLButtonElement} */ (byId("login-submit"));
  submit.disabled = true;
  setText(byId("login-error"), "");
  try {
    await session.logIn(user.value, password.value);
    login.close();
    const then = afterLogin;
    afterLogin = null;
    then?.();
  } catch (error) {
    setText(byId("login-error"), /** @type {Error} */ (error).message);
    password.select();
  } finally {
    submit.disabled = false;
  }
});

session.addEventListener("change", showWho);
showWho();

function showWho() {
  const who = session.login;
  setText(byId("who"), who ? `${who.user}${who.mayEdit ? "" : " (may look)"}` : "");
  setText(byId("log-in"), who ? "Log out" : "Log in");
}

// The theme: the system's, or one of the two

const theme = byId("theme");
const showTheme = () => setText(theme, THEMES[/** @type {keyof THEMES} */ (document.documentElement.dataset.theme ?? "")]);
theme.addEventListener("click", () => {
  const root = document.documentElement;
  const names = Object.keys(THEMES);
  const next = names[(names.indexOf(root.dataset.theme ?? "") + 1) % names.length];
  if (next) root.dataset.theme = next;
  else delete root.dataset.theme;
  if (next) localStorage.setItem("xcpmem.theme", next);
  else localStorage.removeItem("xcpmem.theme");
  showTheme();
  timeline.redraw();
});
showTheme();

void feed.run();
