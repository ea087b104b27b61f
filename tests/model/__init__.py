"""What the server promises, said once more and independently, and held against the real one.

A hypothesis state machine (`machine`) and a history checker (`history`); no rule here is read
from the server's own code. Short forms are the tests of this directory, long ones `scripts/soak`.
"""
