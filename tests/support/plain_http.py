"""What HTTP clients of tests are given instead of TLS."""

import ssl

# To load the machine's certificate authorities takes 50 ms for each client, and none speaks TLS.
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
