// Who is logged in, and XenAPI calls. The session lives as long as the tab, and never stands in a URL.

import { formatBytes } from "./format.js";

/**
 * @typedef {{ref: string, user: string, mayEdit: boolean}} Login
 */

const KEY = "xcpmem.session";
const ORIGINATOR = "xcpmem dashboard";

/** A XenAPI failure. */
export class Failure extends Error {
  /**
   * @param {string} code
   * @param {string[]} params
   */
  constructor(code, params) {
    super(describe(code, params));
    this.code = code;
    this.params = params;
  }
}

/** Tells of logins and logouts by its event `change`. */
export class Session extends EventTarget {
  constructor() {
    super();
    /** @type {Login | null} */
    this.login = JSON.parse(sessionStorage.getItem(KEY) ?? "null");
  }

  /** Headers for readings of `/api/v1`. */
  get headers() {
    return this.login ? { Authorization: `Bearer ${this.login.ref}` } : {};
  }

  /**
   * @param {string} user
   * @param {string} password
   */
  async logIn(user, password) {
    const ref = await call("session.login_with_password", user, password, "2.21", ORIGINATOR);
    const [isRoot, permissions] = await Promise.all([
      call("session.get_is_local_superuser", ref, ref),
      call("session.get_rbac_permissions", ref, ref),
    ]);
    const mayEdit = isRoot || permissions.some((name) => name.toLowerCase() === "vm.set_memory_dynamic_range");
    this.#keep({ ref, user, mayEdit });
  }

  async logOut() {
    const { ref } = this.login ?? {};
    this.#keep(null);
    if (ref) await call("session.logout", ref);
  }

  /** Know that the daemon does not know the session any more. */
  lose() {
    if (this.login) this.#keep(null);
  }

  /**
   * Call with the session.
   * @param {string} method
   * @param {...unknown} params
   */
  async call(method, ...params) {
    if (this.login === null) throw new Failure("SESSION_INVALID", []);
    try {
      return await call(method, this.login.ref, ...params);
    } catch (error) {
      if (error instanceof Failure && error.code === "SESSION_INVALID") this.lose();
      throw error;
    }
  }

  /** @param {Login | null} login */
  #keep(login) {
    this.login = login;
    if (login) sessionStorage.setItem(KEY, JSON.stringify(login));
    else sessionStorage.removeItem(KEY);
    this.dispatchEvent(new Event("change"));
  }
}

/**
 * @param {string} method
 * @param {...unknown} params
 */
async function call(method, ...params) {
  let response;
  try {
    response = await fetch("jsonrpc", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ jsonrpc: "2.0", id: 1, method, params }),
      credentials: "same-origin",
      cache: "no-store",
    });
  } catch {
    throw new Error("The daemon does not answer.");
  }
  if (!response.ok) throw new Error(`The daemon answered ${response.status} ${response.statusText}.`);
  const { result, error } = await response.json();
  if (error) throw new Failure(error.message, (error.data ?? []).map(String));
  return result;
}

/**
 * Put a XenAPI failure into words.
 * @param {string} code
 * @param {string[]} params
 */
export function describe(code, params) {
  const size = (at) => formatBytes(Number(params[at]));
  switch (code) {
    case "MEMORY_CONSTRAINT_VIOLATION_ORDER":
      return "Refused: the order static-min ≤ dynamic-min ≤ dynamic-max ≤ static-max must hold.";
    case "MEMORY_CONSTRAINT_VIOLATION_MAXPIN":
      return `Refused: this VM must stay at static-max (${params.join(", ")}).`;
    case "HOST_NOT_ENOUGH_FREE_MEMORY":
      return `Refused: ${size(0)} are needed and the others can free ${size(1)}.`;
    case "VMS_FAILED_TO_COOPERATE":
      return "Refused: VMs that would have to give memory do not do as they are asked.";
    case "RBAC_PERMISSION_DENIED":
      return "Refused: your role may look but not change this.";
    case "SESSION_INVALID":
      return "Your session has ended: log in again.";
    case "SESSION_AUTHENTICATION_FAILED":
      return "Wrong user or password.";
    case "INVALID_VALUE":
      return `Refused: ${params[0]} cannot be “${params[1]}”.`;
    case "VM_BAD_POWER_STATE":
      return `Refused: the VM is ${String(params[2]).toLowerCase()}, which does not allow it.`;
    case "OTHER_OPERATION_IN_PROGRESS":
      return "Refused: something else is being done to this VM; try again in a moment.";
    case "OPERATION_BLOCKED":
      return `Refused: this was blocked for this VM (${params[1] ?? ""}).`;
    case "UUID_INVALID":
    case "HANDLE_INVALID":
      return "Refused: this VM is gone.";
    case "TOO_BUSY":
      return "The daemon is busy; try again in a moment.";
    default:
      return `Refused: ${[code, ...params].join(" ")}`;
  }
}
