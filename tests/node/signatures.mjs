// Signatures made and verified by the providers' own libraries: one JSON object per line and case, for tests/it/vendors.rs.
import { generateKeyPairSync, sign } from "node:crypto";
import { createRequire } from "node:module";

const require = createRequire(import.meta.url);
const { EventWebhook } = require("@sendgrid/eventwebhook");
const { getExpectedTwilioSignature, validateRequest } = require("twilio/lib/webhooks/webhooks.js");

const say = (line) => console.log(JSON.stringify(line));

const { privateKey, publicKey } = generateKeyPairSync("ec", { namedCurve: "prime256v1" });
const key = publicKey.export({ type: "spki", format: "der" }).toString("base64");
const webhook = new EventWebhook();
const timestamp = "1800000000";
const bodies = [
  JSON.stringify([{ event: "delivered", sg_event_id: "a" }]) + "\r\n",
  '[{"event":"bounce","reason":"é — \\u00e9"}]',
  "[]",
];
for (const body of bodies) {
  const signature = sign("sha256", Buffer.from(timestamp + body), privateKey).toString("base64");
  for (const seen of [body, body + " ", ""]) {
    const valid = webhook.verifySignature(webhook.convertPublicKeyToECDSA(key), seen, signature, timestamp);
    say({ vendor: "sendgrid", key, timestamp, body: seen, signature, valid });
  }
}

const token = "0123456789abcdef";
const forms = [
  { MessageSid: "SM1", MessageStatus: "delivered", To: "+4915112345678", From: "+15550006789" },
  { Body: "Stop & ünsubscribe + 100%", From: "+4915112345678", Empty: "", b: "1", B: "2" },
  {},
];
const urls = [
  "https://chat.example.com/v1/webhooks/twilio",
  "https://chat.example.com/v1/webhooks/twilio?notification=0190f0f0-0000-7000-8000-000000000000",
];
for (const form of forms) {
  for (const url of urls) {
    const signature = getExpectedTwilioSignature(token, url, form);
    for (const seen of [form, { ...form, To: "+1" }]) {
      const valid = validateRequest(token, signature, url, seen);
      say({ vendor: "twilio", key: token, url, form: seen, signature, valid });
    }
    const valid = validateRequest("another", signature, url, form);
    say({ vendor: "twilio", key: "another", url, form, signature, valid });
  }
}
