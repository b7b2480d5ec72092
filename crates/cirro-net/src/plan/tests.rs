//! Plans against checked-in text.
