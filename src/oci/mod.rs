//! The words of the OCI specifications, as types: what they mean is decided here and nowhere else.
//!
//! | question | module |
//! |---|---|
//! | what is this content called? | [`digest`] |
//! | what is an image called? | [`mod@reference`] |
//! | what does it run on? | [`platform`] |
//! | which bytes is this JSON value? | [`canonical`] |
//! | how is a layer packed? | [`compression`] |
//! | what is in an image, as its publisher says? | [`bill`] |
//! | would the strictest reader of images accept this document? | [`strict`] |

pub(crate) mod bill;
pub(crate) mod canonical;
pub(crate) mod compression;
pub(crate) mod digest;
mod gunzip;
pub(crate) mod platform;
pub(crate) mod reference;
pub(crate) mod strict;
