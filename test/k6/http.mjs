// HTTP for scripts. In k6 a request keeps its caller waiting, so this does: a thread makes the
// request, and the caller's thread sleeps until it is answered.

import { MessageChannel, Worker, isMainThread, parentPort, receiveMessageOnPort } from 'node:worker_threads';

if (!isMainThread) {
  parentPort.on('message', async ({ port, signal, request: { method, url, headers, body, timeout } }) => {
    let answer;
    try {
      const res = await fetch(url, { method, headers, body, redirect: 'manual', signal: AbortSignal.timeout(timeout) });
      answer = { status: res.status, headers: Object.fromEntries(res.headers), body: await res.text(), error: '' };
    } catch (err) {
      answer = { status: 0, headers: {}, body: null, error: String(err.cause?.message || err.cause?.code || err.message) };
    }
    port.postMessage(answer);
    Atomics.store(signal, 0, 1);
    Atomics.notify(signal, 0);
  });
}

let worker;

/** request gives {status, headers, body, error}; status 0 is no answer at all. */
export function request(what) {
  worker ??= new Worker(new URL(import.meta.url));
  worker.unref();
  const { port1, port2 } = new MessageChannel();
  const signal = new Int32Array(new SharedArrayBuffer(4));
  worker.postMessage({ port: port2, signal, request: what }, [port2]);
  Atomics.wait(signal, 0, 0);
  const { message } = receiveMessageOnPort(port1);
  port1.close();
  return message;
}
