#!/usr/bin/env node
// A sink: appends every event to a file, as a line of JSON.
import { createInterface } from "node:readline";
import { fsyncSync, openSync, writeSync } from "node:fs";

let path, file;

const calls = {
  hello({ options }) {
    path = options.path;
    return { protocol: 1, name: "append.mjs 1.0", ordering: "total" };
  },
  ping() {
    file ??= openSync(path, "a");
    return {};
  },
  write({ events }) {
    file ??= openSync(path, "a");
    const all = Buffer.from(events.map((event) => JSON.stringify(event) + "\n").join(""));
    for (let done = 0; done < all.length;) done += writeSync(file, all, done);
    fsyncSync(file); // Durable before the answer says so.
    return { failed: [] };
  },
};

for await (const line of createInterface({ input: process.stdin })) {
  const ask = JSON.parse(line);
  let answer;
  try {
    answer = calls[ask.call](ask);
  } catch (e) {
    answer = { error: { kind: "transient", message: `cannot ${ask.call}: ${e.code ?? e.name}` } };
  }
  process.stdout.write(JSON.stringify({ id: ask.id, ...answer }) + "\n");
}
