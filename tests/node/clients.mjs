// Stock Socket.IO clients, controlled by the test that started this process: one JSON object per line in both directions.
//
// In:  {do: "open", client, url, options}   {do: "emit", client, event, data, ack?}   {do: "disconnect", client}
// Out: {client, what: "connect" | "transport" | "event" | "ack" | "connect_error" | "disconnect", …}
//
// A client opened with {brief: true} reports only the fields of a message that a replay compares.

import { createInterface } from "node:readline";
import { io } from "socket.io-client";

const clients = new Map();

function say(line) {
  process.stdout.write(JSON.stringify(line) + "\n");
}

function open({ client, url, options, brief }) {
  const socket = io(url, {
    forceNew: true,
    reconnectionDelay: 50,
    reconnectionDelayMax: 200,
    ...options,
  });
  clients.set(client, socket);
  socket.on("connect", () => {
    const { engine } = socket.io;
    say({ client, what: "connect", transport: engine.transport.name });
    engine.once("upgrade", (transport) =>
      say({ client, what: "transport", transport: transport.name }),
    );
  });
  socket.on("connect_error", (error) =>
    say({ client, what: "connect_error", message: error.message, data: error.data ?? null }),
  );
  socket.on("disconnect", (reason, details) =>
    say({ client, what: "disconnect", reason, code: details?.context?.code ?? null }),
  );
  socket.onAny((event, data) => {
    if (brief && event === "newMessage") {
      const { seq, changeSeq, clientMsgId, body, sender } = data;
      data = { seq, changeSeq, clientMsgId, body, sender };
    }
    say({ client, what: "event", event, data });
  });
}

function act(line) {
  const socket = clients.get(line.client);
  switch (line.do) {
    case "open":
      return open(line);
    case "emit":
      if (line.ack === undefined) {
        return socket.emit(line.event, line.data);
      }
      return socket.emit(line.event, line.data, (answer) =>
        say({ client: line.client, what: "ack", id: line.ack, answer }),
      );
    case "disconnect":
      return socket.disconnect();
    default:
      throw new Error(`unknown: ${line.do}`);
  }
}

const lines = createInterface({ input: process.stdin });
lines.on("line", (line) => act(JSON.parse(line)));
// The test has ended.
lines.on("close", () => process.exit(0));
