// Sizes and times, for people and back. Sizes are bytes, times seconds of Unix time.

const UNITS = ["bytes", "KiB", "MiB", "GiB", "TiB"];
export const MIB = 2 ** 20;

/**
 * Write a size to three digits or so: "1.5 GiB".
 * @param {number | null | undefined} bytes
 */
export function formatBytes(bytes) {
  if (bytes === null || bytes === undefined) return "–";
  if (bytes === 0) return "0";
  let size = bytes;
  let unit = 0;
  while (Math.abs(size) >= 1024 && unit < UNITS.length - 1) {
    size /= 1024;
    unit += 1;
  }
  const digits = unit === 0 || Math.abs(size) >= 100 ? 0 : Math.abs(size) >= 10 ? 1 : 2;
  const text = size.toFixed(digits);
  return `${text.includes(".") ? text.replace(/\.?0+$/, "") : text} ${UNITS[unit]}`;
}

/**
 * Write a difference with its sign: "+512 MiB".
 * @param {number} bytes
 */
export function formatChange(bytes) {
  return (bytes > 0 ? "+" : bytes < 0 ? "−" : "±") + formatBytes(Math.abs(bytes));
}

/**
 * Write a size exactly, to be edited: whole GiB or MiB where it is so, else KiB or bytes.
 * @param {number} bytes
 */
export function exactSize(bytes) {
  for (const [unit, name] of [[2 ** 30, "GiB"], [MIB, "MiB"], [2 ** 10, "KiB"]]) {
    const size = bytes / unit;
    if (size >= 1 && Number.isInteger(size * 4)) return `${size} ${name}`;
  }
  return `${bytes} bytes`;
}

/**
 * Read a size as people type it: "1.5 GiB", "512m". Without a unit it is refused, for nobody knows which is meant.
 * @param {string} text
 * @returns {number | null} bytes, or null for what is no size
 */
export function parseSize(text) {
  const match = /^\s*(\d+(?:[.,]\d+)?)\s*(?:([kmgt])(?:i?b)?|bytes|b)\s*$/i.exec(text);
  if (match === null) return null;
  const power = match[2] ? "kmgt".indexOf(match[2].toLowerCase()) + 1 : 0;
  return Math.round(Number(match[1].replace(",", ".")) * 1024 ** power);
}

/** @param {number} time_s */
export function formatTime(time_s) {
  return new Date(time_s * 1000).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false });
}

/**
 * Write a span of time: "0.4 s", "35 s", "2 min 5 s", "3 h 10 min".
 * @param {number} seconds
 */
export function formatSpan(seconds) {
  if (seconds < 9.95) return `${Math.max(0, seconds).toFixed(1)} s`;
  const whole = Math.round(seconds);
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
}

/**
 * Write a short duration: "1.2 ms".
 * @param {number} seconds
 */
export function formatDuration(seconds) {
  return seconds < 1 ? `${(seconds * 1000).toFixed(seconds < 0.01 ? 1 : 0)} ms` : `${seconds.toFixed(1)} s`;
}
