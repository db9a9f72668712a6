// Drives a real inbox with the clients that people have: npm's mailpit-api, and the commands of cypress-mailpit.
// node clients.mjs URL DIRECTORY: what npm has installed is in DIRECTORY/node_modules.
import assert from "node:assert/strict";
import { pathToFileURL } from "node:url";

const [url, directory] = process.argv.slice(2);
const load = (name) => import(pathToFileURL(`${directory}/node_modules/${name}`).href);
const { MailpitClient } = await load("mailpit-api/dist/index.mjs");

const draft = {
  From: { Email: "alice@example.com", Name: "Alice" },
  To: [{ Email: "bob@example.com", Name: "Bob" }],
  Bcc: ["eve@example.com"],
  Subject: "Hello",
  Text: "Plain text",
  HTML: "<p>HTML <img src='cid:dot'></p>",
  Tags: ["work"],
  Attachments: [
    { Content: "R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7", Filename: "dot.gif", ContentType: "image/gif", ContentID: "dot" },
    { Content: "aGk=", Filename: "a.txt", ContentType: "text/plain" },
  ],
};

async function mailpitApi() {
  const client = new MailpitClient(url);
  const info = await client.getInfo();
  assert.equal(typeof info.Version, "string");
  assert.equal((await client.getConfiguration()).MessageRelay.Enabled, false);
  const { ID } = await client.sendMessage(draft);
  const summary = await client.getMessageSummary();
  assert.equal(summary.ID, ID);
  assert.equal(summary.From.Address, "alice@example.com");
  assert.equal(summary.Bcc[0].Address, "eve@example.com");
  assert.equal(summary.Attachments.length, 1);
  assert.equal(summary.Inline.length, 1);
  assert.deepEqual((await client.getMessageHeaders(ID)).Subject, ["Hello"]);
  const blob = await client.getMessageAttachment(ID, summary.Attachments[0].PartID);
  assert.equal(await blob.text(), "hi");
  assert.equal(blob.type, "text/plain");
  assert.equal((await client.getAttachmentThumbnail(ID, summary.Inline[0].PartID)).type, "image/jpeg");
  assert.match(await client.getMessageSource(ID), /^From: Alice <alice@example.com>/);
  await assert.rejects(client.releaseMessage(ID, { To: ["x@example.com"] }), /400/);
  await client.sendMessage({ ...draft, Subject: "Second", Tags: [] });
  const list = await client.listMessages(0, 1);
  assert.equal(list.messages.length, 1);
  assert.equal(list.messages_count, 2);
  assert.equal(list.unread, 1);
  assert.equal(await client.setReadStatus({ Read: true }), "ok");
  assert.equal(await client.setReadStatus({ IDs: [ID], Read: false }), "ok");
  assert.equal(await client.setReadStatus({ Search: "subject:hello", Read: true }, { tz: "America/Chicago" }), "ok");
  assert.equal((await client.listMessages()).unread, 0);
  assert.equal((await client.searchMessages({ query: "subject:second" })).messages_count, 1);
  assert.equal((await client.waitForMessage({ query: "subject:hello" })).ID, ID);
  assert.equal((await client.waitForMessages({ count: 2 })).messages.length, 2);
  assert.equal((await client.waitForMessages({ query: "subject:nothing", count: 0 })).messages.length, 0);
  assert.deepEqual(await client.getTags(), ["work"]);
  assert.equal(await client.setTags({ IDs: [ID], Tags: ["a b", "c"] }), "ok");
  assert.equal(await client.renameTag("a b", "d"), "ok");
  assert.equal(await client.deleteTag("d"), "ok");
  assert.deepEqual(await client.getTags(), ["c"]);
  assert.match(await client.renderMessageHTML(ID), /src='data:image\/gif;base64,/);
  assert.match(await client.renderMessageHTML(ID, 1), /<base target="_blank">/);
  assert.equal(await client.renderMessageText(ID), "Plain text\n");
  for (const check of ["htmlCheck", "linkCheck", "spamAssassinCheck"]) await assert.rejects(client[check](ID), /501/);
  assert.equal((await client.getChaosTriggers()).Sender.Probability, 0);
  const set = await client.setChaosTriggers({ Sender: { ErrorCode: 451, Probability: 5 } });
  assert.deepEqual(set.Sender, { ErrorCode: 451, Probability: 5 });
  assert.equal((await client.setChaosTriggers()).Sender.Probability, 0);
  assert.equal(await client.deleteMessagesBySearch({ query: "subject:second" }), "ok");
  assert.equal(await client.deleteMessages({ IDs: [ID] }), "ok");
  await client.sendMessage(draft);
  assert.equal(await client.deleteMessages(), "ok");
  assert.equal((await client.listMessages()).total, 0);
}

// As much of Cypress as the commands use: chains that are promises.
const chain = (promise) => {
  const made = Promise.resolve(promise);
  return { then: (next, failed) => chain(made.then((value) => next(value), failed)) };
};
globalThis.Cypress = {
  expose: (name) => (name === "MAILPIT_URL" ? url : undefined),
  config: () => 5000,
};
globalThis.cy = {
  env: () => chain({}),
  wrap: (value) => chain(value),
  wait: (milliseconds) => chain(new Promise((done) => setTimeout(done, milliseconds))),
  request: (options) =>
    chain(
      (async () => {
        const target = new URL(options.url);
        for (const [name, value] of Object.entries(options.qs ?? {})) target.searchParams.set(name, value);
        const body = options.body === undefined ? undefined : JSON.stringify(options.body);
        const headers = body === undefined ? {} : { "Content-Type": "application/json" };
        const response = await fetch(target, { method: options.method, body, headers });
        const text = await response.text();
        assert.ok(response.ok, `${options.method} ${target}: ${response.status} ${text}`);
        const json = (response.headers.get("content-type") ?? "").startsWith("application/json");
        return { status: response.status, body: json ? JSON.parse(text) : text };
      })(),
    ),
};

async function cypressMailpit() {
  const { MailpitCommands } = await load("cypress-mailpit/dist/src/MailpitCommands.js");
  const commands = new MailpitCommands();
  const get = (made) => new Promise((done, failed) => made.then(done, failed));
  await get(commands.mailpitSendMail({}));
  await get(commands.mailpitHasEmailsBySubject("Hello Mailpit"));
  await get(commands.mailpitHasEmailsByTo("jane@example.com"));
  await get(commands.mailpitHasEmailsBySearch("from:from@example.com"));
  await get(commands.mailpitNotHasEmailsBySubject("nothing"));
  await get(commands.mailpitNotHasEmailsByTo("nobody@example.com"));
  await get(commands.mailpitNotHasEmailsBySearch("subject:nothing"));
  assert.equal((await get(commands.mailpitGetAllMails())).messages_count, 1);
  const mail = await get(commands.mailpitGetMail());
  assert.equal(await get(commands.mailpitGetSubject(mail)), "Hello Mailpit");
  assert.equal(await get(commands.mailpitGetFromAddress(mail)), "from@example.com");
  assert.deepEqual(await get(commands.mailpitGetRecipientAddress(mail)), ["jane@example.com"]);
  assert.deepEqual(await get(commands.mailpitGetAttachments(mail)), []);
  assert.match(await get(commands.mailpitGetMailHTMlBody(mail)), /hello from mailpit/);
  assert.match(await get(commands.mailpitGetMailTextBody(mail)), /hello from mailpit/);
  for (const [command, unread] of [
    ["mailpitSetStatusAsUnRead", 1],
    ["mailpitSetStatusAsRead", 0],
    ["mailpitSetAllEmailStatusAsUnRead", 1],
    ["mailpitSetAllEmailStatusAsRead", 0],
  ]) {
    await get(commands[command](mail));
    assert.equal((await get(commands.mailpitGetAllMails())).unread, unread);
  }
  await get(commands.mailpitSendMail({ subject: "Other" }));
  assert.equal((await get(commands.mailpitGetEmailsBySubject("Other"))).messages_count, 1);
  assert.equal((await get(commands.mailpitGetEmailsByTo("jane@example.com"))).messages_count, 2);
  await get(commands.mailpitDeleteEmailsBySearch("subject:Other"));
  assert.equal((await get(commands.mailpitSearchEmails("jane"))).messages_count, 1);
  await get(commands.mailpitDeleteAllEmails());
  assert.equal((await get(commands.mailpitGetAllMails())).messages_count, 0);
}

await mailpitApi();
await cypressMailpit();
console.log("all as they expect");
