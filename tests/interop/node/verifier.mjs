// A service with jose's remote key sets, as a process: JSON lines in, JSON lines out, in the
// protocol of tests/faults/rotation/verifier.py.
import { createRemoteJWKSet, jwtVerify } from 'jose'
import { createInterface } from 'node:readline'

const verifiers = {}

function open({ issuer, audience, jwks_uri, cooldown_s }) {
  const keys = createRemoteJWKSet(new URL(jwks_uri), { cooldownDuration: cooldown_s * 1000 })
  const options = { issuer, audience, typ: 'at+jwt', algorithms: ['RS256'] }
  return (token) => jwtVerify(token, keys, options)
}

async function answer(batch) {
  const refused = {}
  const check = async ([name, token], number) => {
    try {
      await verifiers[name](token)
    } catch (error) {
      refused[number] = `${error.code ?? error.name}: ${error.message}`.slice(0, 200)
    }
  }
  await Promise.all(batch.map(check))
  return { checked: batch.length, refused }
}

let isConfigured = false
for await (const line of createInterface({ input: process.stdin })) {
  const value = JSON.parse(line)
  if (isConfigured) {
    process.stdout.write(JSON.stringify(await answer(value)) + '\n')
  } else {
    for (const [name, place] of Object.entries(value)) verifiers[name] = open(place)
    isConfigured = true
  }
}
