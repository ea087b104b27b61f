// A file of its own: the page's policy allows no script inside HTML.
window.ui = SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  validatorUrl: null, // would send the description to a stranger
  requestInterceptor: (request) => ({ ...request, cache: "no-cache" }),
});
