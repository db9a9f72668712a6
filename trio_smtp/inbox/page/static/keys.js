// Keys: j and k, /, r, x, u, Delete, ?
"use strict";
(() => {
  const { one, main, go } = inbox;
  const rows = () => [...document.querySelectorAll("#rows > .row")];
  const current = () => document.activeElement?.closest?.(".row") ?? null;

  function step(by) {
    const all = rows();
    const at = all.indexOf(current());
    const next = all[at < 0 ? (by > 0 ? 0 : all.length - 1) : Math.min(all.length - 1, Math.max(0, at + by))];
    next?.querySelector("a").focus();
  }

  // What is selected, or else the row that has the focus.
  function chosen() {
    const ids = inbox.selected();
    return ids.length ? ids : current() ? [current().dataset.id] : [];
  }

  const onList = {
    j: () => step(1),
    k: () => step(-1),
    x: () => current()?.querySelector("input").click(),
    r: () => {
      const ids = chosen();
      const unread = ids.some((id) => document.getElementById(`m-${id}`).classList.contains("unread"));
      if (ids.length) inbox.mark(ids, unread);
    },
    Delete: () => {
      const ids = chosen();
      if (!ids.length) return;
      if (current()) {
        const all = rows();
        const left = all.slice(all.indexOf(current())).concat(all.reverse()).find((row) => !ids.includes(row.dataset.id));
        left?.querySelector("a").focus();
      }
      inbox.remove(ids);
    },
  };
  const onMessage = {
    j: () => one("#older")?.click(),
    k: () => one("#newer")?.click(),
    r: () => inbox.ofMessage("unread"),
    u: () => go(inbox.list()),
    Delete: () => inbox.ofMessage("delete"),
  };
  const everywhere = {
    "/": () => {
      one("#q").focus();
      one("#q").select();
    },
    "?": () => one("#keys").showModal(),
  };

  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
    const place = event.target;
    if (event.key === "Escape" && place.id === "q") place.blur();
    if (document.querySelector("dialog[open]") || place.isContentEditable) return;
    if (place.matches?.("input:not([type=checkbox]), textarea, select")) return;
    const keys = { list: onList, message: onMessage }[main().dataset.page];
    const act = keys?.[event.key] ?? everywhere[event.key];
    if (act === undefined) return;
    event.preventDefault();
    act();
  });
  one("#help").addEventListener("click", () => one("#keys").showModal());
})();
