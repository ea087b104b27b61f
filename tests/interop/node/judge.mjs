// Judges many tokens with jose: reads one JSON document, prints one list, an entry for each token:
// null for an accepted one, else the code for which it is refused.
import { createLocalJWKSet, jwtVerify } from 'jose'
import { readFileSync } from 'node:fs'

const { jwks, issuer, audience, now, tokens } = JSON.parse(readFileSync(0, 'utf8'))
const keys = createLocalJWKSet(jwks)
const options = {
  issuer,
  audience,
  typ: 'at+jwt',
  algorithms: ['RS256'],
  requiredClaims: ['iss', 'sub', 'aud', 'exp', 'iat', 'jti', 'client_id'],
  currentDate: new Date(now * 1000),
}
const outcomes = []
for (const token of tokens) {
  try {
    await jwtVerify(token, keys, options)
    outcomes.push(null)
  } catch (error) {
    outcomes.push(error.code ?? String(error))
  }
}
console.log(JSON.stringify(outcomes))
