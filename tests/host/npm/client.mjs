// Drives npm's xen-api for a test: one command a line on standard input, one answer a line on standard output.
// A command is [id, verb, ...arguments]; an answer [id, value], or [id, null, [code, ...params]] for an error.
// What happens to the mirror comes in between: [null, "put", {uuid: object}] or [null, "remove", [uuid]].

import { createInterface } from 'node:readline'

import { CancelToken } from 'promise-toolbox'
import { createClient } from 'xen-api'

let xapi
const running = new Map()

const say = line => process.stdout.write(JSON.stringify(line) + '\n')

const verbs = {
  async connect(url, options) {
    xapi = createClient({ url, debounce: 5, eventPollDelay: 100, ...options })
    xapi.objects.on('add', objects => say([null, 'put', objects]))
    xapi.objects.on('update', objects => say([null, 'put', objects]))
    xapi.objects.on('remove', objects => say([null, 'remove', Object.keys(objects)]))
    await xapi.connect()
    await xapi.objectsFetched
    return xapi.pool.$ref
  },
  objects: () => Object.fromEntries(Object.values(xapi.objects.all).map(it => [it.$ref, { type: it.$type, record: it }])),
  call: (method, ...args) => xapi.call(method, ...args),
  callAsync: (method, ...args) => xapi.callAsync(method, ...args),
  // The same, to be ended by `cancel` under a name.
  async begin(name, method, ...args) {
    const { cancel, token } = CancelToken.source()
    running.set(name, { cancel, result: xapi.callAsync(token, method, ...args) })
    running.get(name).result.catch(() => {})
  },
  async cancel(name) {
    await running.get(name).cancel()
    return running.get(name).result
  },
  set: (id, field, value) => xapi.getObject(id)[`set_${field}`](value),
  barrier: ref => xapi.barrier(ref ?? undefined),
  disconnect: () => xapi.disconnect(),
}

const errorOf = error => [error.code ?? error.name ?? 'Error', ...(error.params ?? [String(error.message)])]

for await (const line of createInterface({ input: process.stdin })) {
  const [id, verb, ...args] = JSON.parse(line)
  // Commands run side by side, as calls of Xen Orchestra do.
  Promise.resolve()
    .then(() => verbs[verb](...args))
    .then(
      value => say([id, value ?? null]),
      error => say([id, null, errorOf(error)])
    )
}
process.exit(0)
