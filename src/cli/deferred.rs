//! A verb's arguments, described when the verb is called: to describe all of every verb takes longer than a load with nothing to do.

use std::ops::Deref;

use clap::{ArgMatches, Args, Command, Error, FromArgMatches};

/// The arguments of a verb. Its [`Command`] has none, and no help, until it is the one that is called, or [`Command::build`] asks
/// for all.
#[derive(Debug)]
pub(super) struct Deferred<A>(A);

impl<A> Deref for Deferred<A> {
    type Target = A;

    fn deref(&self) -> &A {
        &self.0
    }
}

impl<A: Args> Args for Deferred<A> {
    fn augment_args(verb: Command) -> Command {
        verb.defer(A::augment_args)
    }

    fn augment_args_for_update(verb: Command) -> Command {
        verb.defer(A::augment_args_for_update)
    }
}

impl<A: FromArgMatches> FromArgMatches for Deferred<A> {
    fn from_arg_matches(given: &ArgMatches) -> Result<Self, Error> {
        A::from_arg_matches(given).map(Self)
    }

    fn from_arg_matches_mut(given: &mut ArgMatches) -> Result<Self, Error> {
        A::from_arg_matches_mut(given).map(Self)
    }

    fn update_from_arg_matches(&mut self, given: &ArgMatches) -> Result<(), Error> {
        self.0.update_from_arg_matches(given)
    }
}
