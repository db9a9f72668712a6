// What people do with buttons: each is a request to the API; the websocket then shows what has become of it.
"use strict";
(() => {
  const { root, one, main, say, ask, sure, go, changed } = inbox;
  const boxes = () => [...document.querySelectorAll("#rows input[type=checkbox]")];
  const selected = () => boxes().filter((box) => box.checked).map((box) => box.value);
  const query = () => main().dataset.query ?? "";
  const list = () => `${root}/${query() ? `?query=${encodeURIComponent(query())}` : ""}`;
  const many = (count) => `${count.toLocaleString("en")} message${count === 1 ? "" : "s"}`;

  // The buttons above the list are for what is selected, or else for all.
  function tellSelection() {
    if (main().dataset.page !== "list") return;
    const chosen = selected().length;
    const all = one("#all");
    all.checked = chosen > 0 && chosen === boxes().length;
    all.indeterminate = chosen > 0 && !all.checked;
    one("#bar [data-act=read]").textContent = chosen ? "Mark read" : "Mark all read";
    one("#bar [data-act=unread]").hidden = !chosen;
    one("#bar [data-act=delete]").textContent = chosen ? `Delete ${chosen.toLocaleString("en")}` : "Delete all";
  }

  async function mark(ids, read) {
    const data = ids.length ? { IDs: ids, Read: read } : query() ? { Search: query(), Read: read } : { Read: read };
    if (await ask("PUT", "messages", data)) {
      for (const box of boxes()) box.checked = false;
      tellSelection();
      changed();
    }
  }

  async function remove(ids) {
    if (ids.length) {
      if (await ask("DELETE", "messages", { IDs: ids })) say(`${many(ids.length)} deleted.`);
    } else {
      const count = Number(one("#list").dataset.count);
      const text = query() ? `Delete ${count === 1 ? "the message" : `all ${many(count)}`} of this search?` : "Delete all messages, and what failed?";
      if (!(await sure(text, "Delete all"))) return;
      const path = query() ? `search?query=${encodeURIComponent(query())}` : "messages";
      if (await ask("DELETE", path)) say("All deleted.");
    }
    changed();
  }

  async function ofMessage(act) {
    const { id } = main().dataset;
    if (act === "unread" && await ask("PUT", "messages", { IDs: [id], Read: false })) go(list());
    if (act === "delete" && await ask("DELETE", "messages", { IDs: [id] })) {
      main().dataset.id = ""; // its end is no news
      say("1 message deleted.");
      go((one("#older") ?? one("#newer"))?.href ?? list());
    }
    if (act === "release") {
      one("#release-problem").textContent = "";
      one("#release").showModal();
    }
    if (act === "tags") one("#tags").showModal();
  }

  async function release() {
    const recipients = one("#release-to").value.split(",").map((each) => each.trim()).filter(Boolean);
    const wrong = (text) => { one("#release-problem").textContent = text; };
    one("#release-send").disabled = true;
    if (await ask("POST", `message/${main().dataset.id}/release`, { To: recipients }, wrong)) {
      one("#release").close();
      say(`Released to ${recipients.join(", ")}.`);
    }
    one("#release-send").disabled = false;
  }

  async function saveTags() {
    const tags = one("#tags-text").value.split(",").map((each) => each.trim()).filter(Boolean);
    if (await ask("PUT", "tags", { IDs: [main().dataset.id], Tags: tags })) go(location.href);
  }

  async function importFiles(files) {
    let count = 0;
    for (const file of files) if (await ask("POST", "import", file, (text) => say(`${file.name}: ${text}`, true))) count += 1;
    if (count === files.length) say(`${many(count)} imported.`);
    changed();
  }

  async function copy(name, button) {
    const source = document.getElementById(name);
    try {
      await navigator.clipboard.writeText(source.textContent);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(source); // without TLS only local pages may use the clipboard
      button.textContent = "Selected";
    }
    setTimeout(() => { button.textContent = "Copy"; }, 2000);
  }

  // Rules: one that is edited is replaced in its place.
  let edited = "";
  function edit(id, line) {
    edited = id;
    one("#rule").value = line;
    one("#rule-save").textContent = id ? "Save" : "Add";
    one("#rule-cancel").hidden = !id;
    one("#rule-problem").textContent = "";
    one("#rule").focus();
  }
  async function saveRule() {
    const line = one("#rule").value.trim();
    const wrong = (text) => { one("#rule-problem").textContent = text; };
    if (!edited) {
      if (await ask("POST", "rules", line, wrong)) go(`${root}/rules`);
      return;
    }
    const response = await ask("GET", "rules", undefined, wrong);
    if (response === null) return;
    const rules = (await response.json()).map((rule) => rule.id === edited ? line : rule);
    if (rules.some((rule) => rule.line === null)) wrong("A rule that only Python can write would be lost; delete this one and add it anew.");
    else if (await ask("PUT", "rules", rules, wrong)) go(`${root}/rules`);
  }

  document.body.addEventListener("click", async (event) => {
    const button = event.target.closest("button");
    if (button === null) return;
    const { act, copy: name, ruleAct, example } = button.dataset;
    if (act && main().dataset.page === "message") await ofMessage(act);
    else if (act === "delete") await remove(selected());
    else if (act) await mark(selected(), act === "read");
    else if (name) await copy(name, button);
    else if (example) edit(edited, example);
    else if (ruleAct) {
      const { rule, line } = button.closest("tr").dataset;
      if (ruleAct === "edit") edit(rule, line);
      else if (await ask("DELETE", `rules/${encodeURIComponent(rule)}`)) go(`${root}/rules`);
    } else if (button.id === "rule-cancel") edit("", "");
    else if (button.id === "release-send") await release();
    else if (button.id === "tags-cancel") one("#tags").close();
    else if (button.id === "tags-save") await saveTags();
  });
  document.body.addEventListener("submit", (event) => {
    if (event.target.id !== "rule-form") return;
    event.preventDefault();
    saveRule();
  });
  document.body.addEventListener("change", (event) => {
    if (event.target.id === "all") for (const box of boxes()) box.checked = event.target.checked;
    if (event.target.id === "import") {
      importFiles([...event.target.files]);
      event.target.value = "";
    }
    tellSelection();
  });
  document.body.addEventListener("inbox:shown", tellSelection);

  // Files that are dropped are imported.
  const hasFiles = (event) => event.dataTransfer?.types.includes("Files");
  addEventListener("dragover", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    document.body.classList.add("dropping");
  });
  addEventListener("dragleave", (event) => {
    if (event.relatedTarget === null) document.body.classList.remove("dropping");
  });
  addEventListener("drop", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    document.body.classList.remove("dropping");
    importFiles([...event.dataTransfer.files]);
  });

  Object.assign(inbox, { mark, remove, ofMessage, selected, list });
  tellSelection();
})();
