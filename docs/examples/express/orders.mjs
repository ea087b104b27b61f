// Express. npm install express express-oauth2-jwt-bearer, then in this directory:
// ISSUER_BASE_URL=http://127.0.0.1:8080 AUDIENCE=https://orders.example PORT=8001 node orders.mjs
import express from 'express'
import { auth, requiredScopes } from 'express-oauth2-jwt-bearer'

const app = express()
app.use(auth({
  issuerBaseURL: process.env.ISSUER_BASE_URL,
  audience: process.env.AUDIENCE,
  tokenSigningAlg: 'RS256',
  strict: true, // typ at+jwt and the claims of RFC 9068
}))
app.get('/orders', requiredScopes('orders:read'), (request, response) => {
  response.json({ client_id: request.auth.payload.client_id })
})
const server = app.listen(Number(process.env.PORT ?? 8001), '127.0.0.1', () => {
  console.log('port', server.address().port)
})
