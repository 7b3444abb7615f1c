//! Sessions with the agents inside sandboxes, which dial out to us.
