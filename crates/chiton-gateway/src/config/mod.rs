//! Configuration: flags over environment over file over defaults, every error at once, every origin kept.
