// A swap for htmx that touches only what has changed, so that nothing flickers, and focus and selection stay.
"use strict";
(() => {
  // Makes `old` equal to `fresh`: children are told apart by their ids; one whose data-version is the same stays.
  function settle(old, fresh) {
    for (const { name, value } of fresh.attributes) {
      if (name.startsWith("data-") && old.getAttribute(name) !== value) old.setAttribute(name, value);
    }
    const wanted = new Set([...fresh.children].map((child) => child.id));
    for (const child of [...old.children]) if (!wanted.has(child.id)) child.remove();
    const here = new Map([...old.children].map((child) => [child.id, child]));
    let place = old.firstElementChild;
    for (const next of [...fresh.children]) {
      const same = here.get(next.id);
      if (same === undefined) {
        if (next.classList.contains("row") && old.dataset.settled) next.classList.add("arrived");
        old.insertBefore(next, place);
        htmx.process(next);
        continue;
      }
      let stays = same;
      if (same.hasAttribute("data-keyed")) settle(same, next);
      else if (same.dataset.version !== next.dataset.version) stays = replace(same, next, place);
      if (stays === place || same === place) place = stays.nextElementSibling;
      else old.insertBefore(stays, place);
    }
    old.dataset.settled = "1";
  }

  function replace(same, next) {
    const box = same.querySelector("input[type=checkbox]");
    const fresh = next.querySelector("input[type=checkbox]");
    if (box && fresh) fresh.checked = box.checked;
    const focused = same.contains(document.activeElement) ? document.activeElement : null;
    same.replaceWith(next);
    htmx.process(next);
    if (focused) (next.querySelector(focused.tagName.toLowerCase()) ?? next).focus({ preventScroll: true });
    return next;
  }

  htmx.defineExtension("keyed", {
    isInlineSwap: (style) => style === "keyed",
    handleSwap: (style, target, fragment) => {
      if (style !== "keyed") return false;
      const fresh = fragment.querySelector?.(`#${target.id}`);
      if (fresh) settle(target, fresh);
      document.body.dispatchEvent(new CustomEvent("inbox:settled"));
      return [target];
    },
  });
})();
