// An independent SMTP server and mail parser for tests/it/harness/smtp.rs. One JSON object per line: it prints its port,
// each recipient of a RCPT command and each mail; it reads the reply codes for the next RCPT commands with an address.
import { createInterface } from "node:readline";
import { simpleParser } from "mailparser";
import { SMTPServer } from "smtp-server";

const say = (line) => console.log(JSON.stringify(line));
const refusal = (responseCode) => Object.assign(new Error("as the test says"), { responseCode });
const codes = new Map();

createInterface({ input: process.stdin })
  .on("line", (line) => {
    const told = JSON.parse(line);
    codes.set(told.address, told.codes);
    say({ told: told.address });
  })
  .on("close", () => process.exit());

const server = new SMTPServer({
  disabledCommands: ["STARTTLS"],
  allowInsecureAuth: true,
  onAuth({ username, password }, _session, done) {
    if (username === "chat" && password === "p@ss:word") done(null, { user: username });
    else done(refusal(535));
  },
  onRcptTo({ address }, _session, done) {
    const code = codes.get(address)?.shift();
    say({ asked: address, code: code ?? 250 });
    // 0: reply after the client's timeout.
    if (code === 0) setTimeout(done, 2500);
    else done(code ? refusal(code) : undefined);
  },
  onData(stream, session, done) {
    simpleParser(stream).then((mail) => {
      const lines = Object.fromEntries(mail.headerLines.map(({ key, line }) => [key, line]));
      const { mailFrom, rcptTo } = session.envelope;
      say({
        mail: {
          from: mailFrom.address,
          to: rcptTo.map(({ address }) => address),
          subject: mail.subject,
          text: mail.text,
          html: mail.html,
          lines,
        },
      });
      done();
    }, done);
  },
});
server.listen(0, "127.0.0.1", () => say({ port: server.server.address().port }));
