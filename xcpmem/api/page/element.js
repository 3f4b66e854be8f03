// Makes elements; text is always text, never markup.

/**
 * @param {string} tag
 * @param {Record<string, string | boolean | EventListener>} [attributes] listeners as `onclick`; false leaves one out
 * @param {...(Node | string | null)} children
 * @returns {HTMLElement}
 */
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") made.addEventListener(name.slice(2), value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false) made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null));
  return made;
}

/** @param {string} id */
export function byId(id) {
  const found = document.getElementById(id);
  if (found === null) throw new Error(`no element ${id}`);
  return found;
}

/**
 * Set text only where it is another: a screen reader tells of each change.
 * @param {Node} node
 * @param {string} text
 */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/**
 * Fill a description list in place: terms stay, only what changed is written.
 * @param {HTMLElement} list
 * @param {Array<[string, string]>} rows
 */
export function setFacts(list, rows) {
  while (list.children.length > rows.length) list.lastElementChild.remove();
  rows.forEach(([term, text], at) => {
    if (!list.children[at]) list.append(element("div", {}, element("dt"), element("dd")));
    const [dt, dd] = list.children[at].children;
    setText(dt, term);
    setText(dd, text);
  });
}
