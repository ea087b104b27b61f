// Verifies access tokens as a Node.js service would: jose's remote key set and nothing else.
// Reads one JSON document from standard input, prints one: the outcome of each named check.
import { createRemoteJWKSet, jwtVerify } from 'jose'
import { readFileSync } from 'node:fs'

const { jwks_uri, issuer, checks } = JSON.parse(readFileSync(0, 'utf8'))
const keys = createRemoteJWKSet(new URL(jwks_uri))
const requiredClaims = ['iss', 'sub', 'aud', 'exp', 'iat', 'jti', 'client_id']
const outcomes = {}
for (const [name, { token, audience, typ }] of Object.entries(checks)) {
  try {
    const options = { issuer, audience, typ, requiredClaims, algorithms: ['RS256'] }
    const { payload, protectedHeader } = await jwtVerify(token, keys, options)
    outcomes[name] = { claims: payload, header: protectedHeader }
  } catch (error) {
    outcomes[name] = { refused: error.code ?? String(error) }
  }
}
console.log(JSON.stringify(outcomes))
