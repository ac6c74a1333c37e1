//! The end of a load: names lead to what was loaded, and Podman itself says that it has all of it.
//!
//! Podman may fail, whatever it is asked, because of one image. So when it fails after a load, what was linked is taken
//! out of the records, and each image is put back and asked for with those before it alone: the one at fault is found,
//! and the others are there.

use std::collections::BTreeSet;

use super::decide::PodmanHost;
use super::{DamagedRecord, LoadError, LoadNotes, PodmanImageOutcome};
use crate::disk::progress::Progress;
use crate::engine::load::Loading;
use crate::engine::process::ProgramError;
use crate::engine::target::{LoadMethod, LoadTarget, Presence};
use crate::podman::storage::snapshot::StoreSnapshot;

impl PodmanHost {
    /// Names and confirms the images that are loaded in these ways.
    pub(crate) fn finish(
        &self,
        loading: &mut Loading<'_, Self>,
        ways: &dyn Fn(LoadMethod) -> bool,
        LoadNotes { pending, damaged }: &LoadNotes,
    ) -> Result<(), LoadError> {
        let (targets, outcomes, progress) = (loading.targets, &mut loading.outcomes, loading.progress);
        let chosen: Vec<usize> =
            (0..outcomes.len()).filter(|n| outcomes[*n].error.is_none() && ways(outcomes[*n].step.how)).collect();
        let is_loaded = |n: &&usize| outcomes[**n].step.how != LoadMethod::Present;
        if !chosen.iter().any(|n| is_loaded(&n)) {
            return Ok(());
        }
        let ids: BTreeSet<String> = chosen.iter().filter(is_loaded).map(|n| id(&outcomes[*n])).collect();
        let failed = match self.finish_all(targets, outcomes, &chosen, damaged, progress) {
            Err(LoadError::Engine(error)) if is_failure(&error) => true,
            Err(error) => return Err(error),
            Ok(()) => chosen.iter().any(|n| is_engine_failure(&outcomes[*n])),
        };
        if !failed {
            return Ok(());
        }
        let mut out = self.hold_back(pending, &ids, progress)?;
        for n in chosen {
            outcomes[n].error = None;
            out.put_back(&id(&outcomes[n]), progress)?;
            let error = match self.finish_all(targets, outcomes, &[n], damaged, progress) {
                Ok(()) => outcomes[n].error.take(),
                Err(error) => Some(error),
            };
            outcomes[n].error = match error {
                Some(LoadError::Engine(error)) if is_failure(&error) => Some(LoadError::NotThere {
                    engine: self.engine.kind(),
                    reference: outcomes[n].step.entry.reference.to_string(),
                    found: format!("cannot read it: {error}"),
                }),
                Some(LoadError::Engine(error)) => return Err(error.into()),
                error => error,
            };
            if outcomes[n].error.is_some() {
                self.take_away_pending(pending, &[id(&outcomes[n])].into(), progress)?;
            }
        }
        Ok(())
    }

    fn finish_all(
        &self,
        targets: &[LoadTarget],
        outcomes: &mut [PodmanImageOutcome],
        chosen: &[usize],
        damaged: &[DamagedRecord],
        progress: &Progress,
    ) -> Result<(), LoadError> {
        for n in chosen {
            let (target, outcome) = (&targets[*n], &mut outcomes[*n]);
            self.put_names_right(std::slice::from_ref(target), std::slice::from_mut(outcome), progress)?;
            if outcome.error.is_none() {
                let id = id(outcome);
                let tagged = damaged[*n].given.iter().try_for_each(|name| self.engine.tag(&id, name, progress));
                outcome.error = tagged.err().map(LoadError::from);
            }
        }
        self.confirm(targets, outcomes, chosen, progress)
    }

    /// Asks Podman itself, and the records.
    fn confirm(
        &self,
        targets: &[LoadTarget],
        outcomes: &mut [PodmanImageOutcome],
        chosen: &[usize],
        progress: &Progress,
    ) -> Result<(), LoadError> {
        let is_asked = |n: &&usize| outcomes[**n].step.how != LoadMethod::Present && outcomes[**n].error.is_none();
        let asked: Vec<usize> = chosen.iter().filter(is_asked).copied().collect();
        let all_names: Vec<Vec<String>> = asked.iter().map(|n| outcomes[*n].step.entry.names()).collect();
        let flat: Vec<&str> = all_names.iter().flatten().map(String::as_str).collect();
        let mut answers = self.engine.exists(&flat, progress)?.into_iter();
        let snapshot = StoreSnapshot::read(&self.places, progress)?;
        for (n, names) in asked.into_iter().zip(all_names) {
            let (target, outcome) = (&targets[n], &mut outcomes[n]);
            let (summary, platform) = (target.image.summary(), target.platform()?);
            let mut found = None;
            for (name, answer) in names.iter().zip(answers.by_ref()) {
                match answer {
                    Some(id) if id == platform.config_digest => {}
                    Some(id) => found = Some(format!("has {id} as {name}")),
                    None => found = Some(format!("knows no {name}")),
                }
            }
            found = found.or_else(|| match snapshot.presence(summary, platform) {
                Presence::Present { .. } => None,
                Presence::Damaged { why, .. } => Some(format!("has only a part of it: {why}")),
                Presence::Missing => Some("has no record of it".to_owned()),
            });
            let engine = self.engine.kind();
            outcome.error =
                found.map(|found| LoadError::NotThere { engine, reference: summary.reference.to_string(), found });
        }
        Ok(())
    }
}

fn id(outcome: &PodmanImageOutcome) -> String {
    outcome.step.entry.config_digest.hex()
}

/// Whether Podman ran, and failed: it may be because of an image.
pub(crate) const fn is_failure(error: &ProgramError) -> bool {
    matches!(error, ProgramError::Failed { .. } | ProgramError::Answer { .. })
}

fn is_engine_failure(outcome: &PodmanImageOutcome) -> bool {
    matches!(&outcome.error, Some(LoadError::Engine(error)) if is_failure(error))
}
