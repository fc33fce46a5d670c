//! The scheduler session: join, handshake, updates in, acks and status out, certificate renewal, the ledger on disk.
