"""Deterministic simulation: the real runtime, engine and tables, over a cluster that fails in every way we know.

One seed is one run.  Workers (one to five of them), agents, brokers, clocks and the network between them are simulated
in one process, in virtual time, and every bit of chance is drawn from the seed; so a run of some virtual minutes takes
half a second, and a seed that finds something finds it again, on any machine and any Python::

    python -m tests.simulation --seed 7         # replay: the whole history, and what was wrong
    python -m tests.simulation --count 10000    # many seeds, and what they came by

`make test` runs a thousand (about three minutes on two cores); ``--simulation-seeds`` says otherwise.

**What is real**: `runtime.owner`, `partition`, `feed`, `transaction`, `batches`, `timers`, `destinations`, `standby`,
`changelog` and `follower`, the whole of `engine`, `tables` and `core`.  They are the code of the product, unchanged.

**What is simulated**, behind the ports of `runtime.ports`:

* `broker`: logs, transactions with epochs and fencing, markers that come later than the decision, the last stable
  offset, time-outs of transactions, refusals; as brokers behave under the transaction protocol before KIP-890.
  `group`: generations, sessions, static members.
* `producer`, `consumer`, `changelog`, `ports`, `disk`: what aiokafka, Faust and RocksDB are to a partition.  `worker`:
  a machine with a clock and disks, on which one process after another runs, in some runs with copies of partitions that
  others own.  `life`: where that dies, freezes or waits in vain.
* `agents`, `wire`, `clients`, `hostility`: three consumer groups (one that reports outcomes, one that is silent, one
  that reads what is not committed), operators, and clients that repeat, reorder, miscount, or make no sense.
* `chaos`: what goes wrong, one action per step; `course`: the run, the calm at its end, the verdict.

**What is checked** (`checker`, `outputs`, `figures`), at every commit and from nothing but what was committed: the
promises of the design, against a second opinion on what each event does (`model`, `timers`).  `coverage` enumerates
what can happen to a message in each state, every crash point, every way of the runtime that matters; a thousand seeds
have to come by all of it.  `bugs` plants one bug for each mechanism, to see that the checkers are not blind.

**What is not simulated**: Faust and aiokafka themselves, RocksDB, sockets and Kafka's wire protocol: the tests in
`tests.integration` and `tests.crash` run those, on real brokers.  The reporter of the SDK and its spool: here agents
report over `wire`.  Alerts and the web.  That partitions go to those who have copies of them: here it is chance.
Compaction, and loss of what brokers acknowledged: the simulated ones keep everything.  The time that code takes:
staging is instantaneous, only requests, pauses and clocks take virtual time.
"""
