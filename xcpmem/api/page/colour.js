// One colour for each VM, the same in all pictures.

const COLOURS = 8;
/** @type {Map<string, number>} */
const given = new Map();

/**
 * The class that colours whatever belongs to a VM; domain 0 has the colour of no other.
 * @param {string} uuid
 * @param {boolean} [isControlDomain]
 */
export function colourOf(uuid, isControlDomain = false) {
  if (isControlDomain) return "vm-colour-control";
  let number = given.get(uuid);
  if (number === undefined) {
    number = given.size % COLOURS;
    given.set(uuid, number);
  }
  return `vm-colour-${number}`;
}
