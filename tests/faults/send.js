// Sends a message with nodemailer: port, ca file, "tls" or "", "auth" or "", milliseconds to wait, sender, recipient.
const [port, ca, tls, auth, patience, from, to] = process.argv.slice(2);
const fs = require("fs");
const transport = require("nodemailer").createTransport({
  host: "localhost",
  port: Number(port),
  name: "client.example",
  ignoreTLS: !tls,
  requireTLS: Boolean(tls),
  tls: { ca: fs.readFileSync(ca) },
  auth: auth ? { user: "ann", pass: "secret" } : undefined,
  connectionTimeout: Number(patience),
  greetingTimeout: Number(patience),
  socketTimeout: Number(patience),
});
transport.sendMail({ envelope: { from, to: [to] }, raw: fs.readFileSync(0) }).then(
  () => console.log("sent"),
  (error) => console.log(error.responseCode ? `${error.code} ${error.responseCode}` : error.code || error.message),
);
