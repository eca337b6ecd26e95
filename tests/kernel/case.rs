//! A case: a claim, what it needs, who tries it.

use std::fmt;
use std::sync::Arc;

use libtest_mimic::{Completion, Failed, Trial};

use crate::launch::{Cgroup, Engine, Stage};
use crate::needs::{self, Need};
use crate::person::Person;
use crate::world::World;

/// What a case does.
type Body = Arc<dyn Fn(&Stage) -> Result<(), Failed> + Send + Sync>;

/// One claim about the program under test.
pub(crate) struct Case {
    name: String,
    needs: Vec<Need>,
    people: Vec<Person>,
    cgroup: Cgroup,
    engine: Engine,
    body: Body,
}

impl fmt::Debug for Case {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Case").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Both who always can: root and an ordinary user.
pub(crate) const BOTH: &[Person] = &[Person::Root, Person::Rootless];
/// Those two, and a user whom `newuidmap` does not know.
pub(crate) const EVERYONE: &[Person] = &[Person::Root, Person::Rootless, Person::Unmapped];

impl Case {
    /// A claim that both root and an ordinary user try.
    pub(crate) fn new(
        name: impl Into<String>,
        body: impl Fn(&Stage) -> Result<(), Failed> + Send + Sync + 'static,
    ) -> Case {
        Case {
            name: name.into(),
            needs: Vec::new(),
            people: BOTH.to_vec(),
            cgroup: Cgroup::Plain,
            engine: Engine::Embedded,
            body: Arc::new(body),
        }
    }

    /// Its name, without the person's.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The same claim about sandboxes that Docker starts. Root and an ordinary user try it.
    pub(crate) fn on_docker(&self) -> Case {
        let mut needs = self.needs.clone();
        needs.extend([Need::Dockerd, Need::Busybox, Need::Python3]);
        Case {
            name: format!("docker_{}", self.name),
            needs,
            people: self.people.iter().copied().filter(|one| BOTH.contains(one)).collect(),
            cgroup: self.cgroup,
            engine: Engine::Docker,
            body: Arc::clone(&self.body),
        }
    }

    /// Adds needs.
    pub(crate) fn needs(mut self, needs: &[Need]) -> Case {
        self.needs.extend(needs);
        self
    }

    /// Lets these people try it instead.
    pub(crate) fn people(mut self, people: &[Person]) -> Case {
        self.people = people.to_vec();
        self
    }

    /// Delegates the cgroup to the person, so that an ordinary user can have limits too.
    pub(crate) fn delegated(mut self) -> Case {
        self.cgroup = Cgroup::Delegated;
        self.needs.push(Need::Root);
        self
    }
}

/// One test per case and person.
pub(crate) fn trials(world: &Arc<World>, cases: Vec<Case>) -> Vec<Trial> {
    cases.into_iter().flat_map(|case| case_trials(world, case)).collect()
}

fn case_trials(world: &Arc<World>, case: Case) -> Vec<Trial> {
    let case = Arc::new(case);
    let trial = |person: Person| {
        let (world, case) = (Arc::clone(world), Arc::clone(&case));
        let name = format!("{}::{}", person.name(), case.name);
        Trial::ignorable_test(name, move || {
            let needs: Vec<Need> =
                person_needs(person).iter().chain(&case.needs).copied().collect();
            if let Some(ignored) = needs::check(&world, &needs)? {
                return Ok(ignored);
            }
            let stage = Stage::new(&world, person, case.cgroup)?.on(case.engine)?;
            (case.body)(&stage)?;
            Ok(Completion::Completed)
        })
    };
    case.people.clone().into_iter().map(trial).collect()
}

/// What it takes to be this person.
fn person_needs(person: Person) -> &'static [Need] {
    match person {
        Person::Root => &[Need::Root],
        Person::Rootless => &[Need::OrdinaryUser, Need::Userns],
        Person::Unmapped => &[Need::Root, Need::OrdinaryUser, Need::Userns],
    }
}
