// smtp-server as it is measured: reads every message and says 250.
//
//     node smtp_server.js PORT [CERTIFICATE KEY]
const { readFileSync } = require("fs");
const { SMTPServer } = require("smtp-server");

const [port, certificate, key] = process.argv.slice(2);

const server = new SMTPServer({
  name: "localhost",
  authOptional: true,
  disableReverseLookup: true,
  disabledCommands: certificate ? ["AUTH"] : ["AUTH", "STARTTLS"],
  ...(certificate ? { cert: readFileSync(certificate), key: readFileSync(key) } : {}),
  onData(stream, session, callback) {
    stream.resume();
    stream.on("end", () => callback(null, "OK"));
  },
});
server.on("error", () => {});
server.listen({ host: "127.0.0.1", port: Number(port), backlog: 1000 });
