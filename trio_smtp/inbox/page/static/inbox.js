// Keeps the page live: the websocket, the title, ages, notifications. Other scripts find helpers in `inbox`.
"use strict";
const inbox = (() => {
  const root = document.body.dataset.root;
  const body = document.body;
  const one = (selector) => document.querySelector(selector);
  const main = () => one("#main");

  // Ages and times, in the reader's zone. `formats.py` writes ages in the same way.
  function age(then, now) {
    const passed = Math.max(0, (now - then) / 1000);
    if (passed < 60) return "now";
    if (passed < 3600) return `${Math.floor(passed / 60)} min`;
    if (passed < 86400) return `${Math.floor(passed / 3600)} h`;
    if (passed < 7 * 86400) return `${Math.floor(passed / 86400)} d`;
    return then.toLocaleDateString("sv"); // 2026-05-31
  }

  function tellTimes() {
    const now = new Date();
    for (const time of document.querySelectorAll("time[datetime]")) {
      const then = new Date(time.dateTime);
      const whole = then.toLocaleString(undefined, { dateStyle: "medium", timeStyle: "medium" });
      const text = "long" in time.dataset ? whole : age(then, now);
      if (time.title !== whole) time.title = whole;
      if (time.textContent !== text) time.textContent = text;
    }
  }

  // htmx leaves the title alone (page.html): a list that comes late has that of another page.
  function tellTitle() {
    const unread = Number(one("#sidebar").dataset.unread);
    const title = main().dataset.title;
    document.title = `${unread ? `(${unread.toLocaleString("en")}) ` : ""}${title} · ${one(".brand").textContent.trim()}`;
  }

  // Marks where we are; the sidebar itself knows nothing of that.
  function tellPlace() {
    const { pathname, search } = location;
    const query = new URLSearchParams(search).get("query") ?? "";
    for (const link of document.querySelectorAll("#sidebar li a")) {
      const url = new URL(link.href);
      const here = main().dataset.page !== "message" && url.pathname === pathname && (url.searchParams.get("query") ?? "") === query;
      if (here) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    }
  }

  // On a narrow page the tabs scroll: the one that is shown is brought into view.
  function tellTab() {
    const tab = one(".tabs [aria-current]");
    if (tab === null) return;
    const inner = tab.getBoundingClientRect();
    const outer = tab.parentElement.getBoundingClientRect();
    if (inner.left < outer.left || inner.right > outer.right) tab.parentElement.scrollLeft += inner.right - outer.right + 12;
  }

  function settled() {
    tellTimes();
    tellTitle();
    tellPlace();
    body.dispatchEvent(new CustomEvent("inbox:shown"));
  }

  // Short words at the edge of the page.
  function say(text, bad = false) {
    const toast = document.createElement("div");
    toast.className = bad ? "toast bad" : "toast";
    const words = document.createElement("span");
    words.textContent = text;
    const close = document.createElement("button");
    close.type = "button";
    close.className = "plain";
    close.textContent = "Close";
    close.addEventListener("click", () => toast.remove());
    toast.append(words, close);
    one("#toasts").replaceChildren(toast);
    if (!bad) setTimeout(() => toast.remove(), 5000);
  }

  // A request to the API. Returns the response; null after an error, which has been said, or given to `wrong`.
  async function ask(method, path, data, wrong = (text) => say(text, true)) {
    const options = { method };
    if (data instanceof Blob) Object.assign(options, { body: data, headers: { "Content-Type": "message/rfc822" } });
    else if (data !== undefined) Object.assign(options, { body: JSON.stringify(data), headers: { "Content-Type": "application/json" } });
    try {
      const response = await fetch(`${root}/api/v1/${path}`, options);
      if (response.ok) return response;
      let text = await response.text();
      try {
        text = JSON.parse(text).Error ?? text;
      } catch {
        // It is plain text.
      }
      wrong(text);
    } catch {
      wrong("The inbox does not answer. Does it still run?");
    }
    return null;
  }

  // Asks before something is lost.
  function sure(text, yes) {
    const dialog = one("#ask");
    one("#ask-text").textContent = text;
    one("#ask-yes").textContent = yes;
    dialog.returnValue = "";
    dialog.showModal();
    return new Promise((resolve) => {
      dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true });
    });
  }

  function go(href) {
    htmx.ajax("GET", href, { source: body, target: "#main", select: "#main", swap: "outerHTML show:window:top" }).then(() => {
      history.pushState({ htmx: true }, "", href);
      settled();
    });
  }

  // Refreshes at once, then at most twice a second, however much mail comes.
  let waiting = false;
  let last = 0;
  function changed() {
    if (waiting) return;
    waiting = true;
    setTimeout(() => {
      waiting = false;
      last = Date.now();
      body.dispatchEvent(new CustomEvent("inbox:changed"));
    }, Math.max(30, last + 500 - Date.now()));
  }

  // Notifications, after consent.
  const wanted = () => localStorage.getItem("inbox-notify") === "yes" && window.Notification?.permission === "granted";
  let told = 0;
  function notify(summary) {
    if (!wanted() || document.visibilityState === "visible" && document.hasFocus() || Date.now() - told < 1000) return;
    told = Date.now();
    const from = summary.From ? summary.From.Name || summary.From.Address : "";
    const note = new Notification(summary.Subject || "New mail", { body: from, tag: "inbox", icon: `${root}/static/icon.svg` });
    note.addEventListener("click", () => {
      window.focus();
      go(`${root}/view/${summary.ID}`);
    });
  }
  function tellNotify() {
    const button = one("#notify");
    button.hidden = !("Notification" in window) || Notification.permission === "denied";
    button.textContent = wanted() ? "Do not notify me" : "Notify me of new mail";
  }
  body.addEventListener("click", async (event) => {
    if (event.target.closest("#notify") === null) return;
    const on = !wanted() && (await Notification.requestPermission()) === "granted";
    localStorage.setItem("inbox-notify", on ? "yes" : "no");
    tellNotify();
  });

  // The websocket. When it breaks, it is opened again, and everything is looked at anew.
  let pause = 500;
  function listen() {
    const socket = new WebSocket(`${location.origin.replace(/^http/, "ws")}${root}/api/events`);
    socket.addEventListener("open", () => {
      pause = 500;
      one("#offline").hidden = true;
      body.dataset.live = "yes";
    });
    socket.addEventListener("message", ({ data }) => {
      const { Type, Data } = JSON.parse(data);
      if (Type === "new" && Data.State === "accepted") notify(Data);
      if (Type === "delete" && main().dataset.id === Data.ID || Type === "truncate" && main().dataset.page === "message") {
        say("This message is deleted.");
      }
      changed();
    });
    socket.addEventListener("close", () => {
      body.dataset.live = "no";
      one("#offline").hidden = false;
      setTimeout(listen, pause);
      pause = Math.min(2 * pause, 10000);
    }, { once: true });
  }

  // While another page is fetched, lists stay as they are: the link that was followed must not be replaced meanwhile.
  let leaving = 0;
  let skipped = false;
  const leaves = (event) => event.detail.target?.id === "main";
  body.addEventListener("htmx:beforeRequest", (event) => { if (leaves(event)) leaving += 1; });
  body.addEventListener("htmx:beforeSwap", (event) => {
    if (leaves(event)) {
      // Said here too: a link that is gone by now inherits nothing.
      event.detail.selectOverride = "#main";
      event.detail.swapOverride = "outerHTML show:window:top";
    } else if (leaving) {
      event.detail.shouldSwap = false;
      skipped = true;
    }
  });
  body.addEventListener("htmx:afterRequest", (event) => {
    if (!leaves(event)) return;
    leaving = Math.max(0, leaving - 1);
    if (!leaving && skipped) {
      skipped = false;
      changed();
    }
  });

  body.addEventListener("htmx:afterSettle", settled);
  body.addEventListener("inbox:settled", settled);
  body.addEventListener("htmx:sendError", () => say("The inbox does not answer. Does it still run?", true));
  body.addEventListener("htmx:afterSwap", (event) => {
    if (event.detail.target.id === "main") {
      body.classList.remove("menu-open");
      one("#menu").setAttribute("aria-expanded", "false");
      main().focus({ preventScroll: true });
      tellTab();
    }
  });
  one("#menu").addEventListener("click", () => {
    one("#menu").setAttribute("aria-expanded", String(body.classList.toggle("menu-open")));
  });
  addEventListener("pagehide", () => { pause = 500; });
  setInterval(tellTimes, 15000);
  settled();
  tellTab();
  tellNotify();
  listen();
  return { root, one, main, say, ask, sure, go, changed };
})();
