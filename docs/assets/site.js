// A table that is wider than the page can be moved with the keys, too (WCAG 2.2, 2.1.1).
const makeReachable = () =>
  document.querySelectorAll(".md-typeset__scrollwrap").forEach((table) => { table.tabIndex = 0; });
new MutationObserver(makeReachable).observe(document.body, { childList: true, subtree: true });
makeReachable();
