"""The state as outsiders see it: read from Kafka alone, changed by orders alone.  No worker is asked or needed.

* `app`: an app's topics opened for reading, and how far its workers lag.
* `messages`: the table of messages, read whole or the partitions of some ids; `history`: what `attempts` has of one.
* `selection`: which messages are meant, and in what order they are taken.
* `orders`: what an order would do to a message, and whether it did; `carrying`: sending orders and watching them work.
* `quarantine`: what could not be understood, and sending it round again.

Answers are of one moment, the one in which the ends of the topics were asked for, and say so.  Nothing here prints.
"""
