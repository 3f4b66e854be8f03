"use strict";
// Before the first paint, hence no module: a page must not flash in the other theme.
{
  const key = "xcpmem.theme";
  const kept = localStorage.getItem(key);
  if (kept === "dark" || kept === "light") document.documentElement.dataset.theme = kept;
}
