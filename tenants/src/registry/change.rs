//! Changes of the configuration: checked as a whole, written in one transaction with their audit records.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use api::v1;
use api::v1::resource::Resource;
use store::{Expect, Limits, Op, StoreError, Txn};
use tokio::time::Instant;

use super::Registry;
use crate::audit::Actor;
use crate::diff;
use crate::external::{certificate_info, id_of, to_api, version_of};
use crate::object::{CONFIG, FENCE, Id, Kind, Meta, Object, Stored, encode, from_millis, to_millis};
use crate::pool::LEASES;
use crate::snapshot::{Snapshot, States, get, set};
use crate::validate::references::{self, Audience};
use crate::validate::{self, Violations};

/// Most tenants.
const MAX_TENANTS: usize = 10_000;
/// Most connections, and most pools, of a tenant.
const MAX_PER_TENANT: usize = 1_000;
/// Most credentials of a tenant.
const MAX_CREDENTIALS: usize = 100_000;
/// Most resources changed at once.
const MAX_MUTATIONS: usize = 1_000;
/// How often a command is recorded again whose number another node took at the same time.
const RECORD_TRIES: usize = 4;
/// How long a change is planned anew because another node's came before it. Nobody queues for the fence: with a few
/// nodes that change things in a loop one of them may well lose it ten times in a row.
const CHANGE_WITHIN: Duration = Duration::from_secs(10);
/// Pause of a change that was refused although no other is known to have come before it.
const NOTHING_NEW: Duration = Duration::from_millis(20);

/// One wanted change.
#[derive(Clone, Debug)]
pub enum Mutation {
    /// A new resource.
    Create(Box<Resource>),
    /// Fields of one that is there; all fields when the mask is empty.
    Update(Box<Resource>, Vec<String>),
    /// Makes it so, whether it is there or not.
    Apply(Box<Resource>),
    /// Away with it.
    Delete {
        /// What.
        id: Id,
        /// Only at this version; empty: at any.
        version: String,
        /// A tenant with everything in it.
        cascade: bool,
    },
}

/// What happens to a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// It is new.
    Create,
    /// It differs.
    Update,
    /// It is so already.
    Unchanged,
    /// It goes.
    Delete,
}

/// What came of one change.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The resource.
    pub id: Id,
    /// What happened to it.
    pub action: Action,
    /// The fields that differ.
    pub fields: Vec<v1::FieldChange>,
    /// The resource after the change; `None` after a deletion.
    pub resource: Option<Resource>,
}

impl Outcome {
    /// The external form.
    pub fn to_api(&self) -> v1::Change {
        let action = match self.action {
            Action::Create => v1::ChangeAction::Create,
            Action::Update => v1::ChangeAction::Update,
            Action::Unchanged => v1::ChangeAction::Unchanged,
            Action::Delete => v1::ChangeAction::Delete,
        };
        v1::Change {
            kind: self.id.kind.name().to_owned(),
            tenant: self.id.tenant.clone(),
            name: self.id.name.clone(),
            action: action.into(),
            fields: self.fields.clone(),
        }
    }
}

/// Why nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RegistryError {
    /// Fields are wrong.
    #[error("{}", list_invalid(.0))]
    Invalid(Vec<(Id, Violations)>),
    /// It is not there.
    #[error("{0} does not exist")]
    NotFound(Id),
    /// It is there already.
    #[error("{0} exists already")]
    AlreadyExists(Id),
    /// Somebody has changed it since.
    #[error("{id} has been changed since: its resource_version is {found}; read it again")]
    Version {
        /// What.
        id: Id,
        /// Its version.
        found: u64,
    },
    /// Others need it.
    #[error("{0}")]
    InUse(String),
    /// A limit is reached.
    #[error("{what}: at most {limit}")]
    Limit {
        /// Of what.
        what: String,
        /// How many are allowed.
        limit: usize,
    },
    /// Others change the configuration faster than this change can be planned anew: try again.
    #[error("the configuration is being changed by others at the same time; try again")]
    Busy,
    /// The store's trouble.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A resource cannot be encoded.
    #[error("a resource cannot be encoded: {0}")]
    Encode(String),
}

fn list_invalid(list: &[(Id, Violations)]) -> String {
    let mut text = String::new();
    for (id, violations) in list {
        for violation in &violations.list {
            text.push_str(if text.is_empty() { "" } else { "\n" });
            text.push_str(&format!("{id}: {violation}"));
        }
    }
    text
}

impl From<serde_json::Error> for RegistryError {
    fn from(error: serde_json::Error) -> Self {
        RegistryError::Encode(error.to_string())
    }
}

/// A change that has been checked.
struct Planned {
    outcome: Outcome,
    before: Option<Stored>,
    /// With its times; `None`: deleted.
    after: Option<(Object, Meta)>,
    cascade: bool,
}

impl Registry {
    /// Makes changes, all or none: every resource is checked by itself, then the whole with all of them done, then
    /// everything is written in one transaction with an audit record each. With `validate_only` nothing is
    /// written. Returns what came of each, in the order given.
    ///
    /// A change builds on every change before it, at whichever node that was made: when another comes in between, it
    /// is planned anew on top of it, so that a version, a name or a reference is judged by what is stored.
    ///
    /// # Errors
    /// Why nothing was changed.
    pub async fn change(
        &self,
        actor: &Actor,
        mutations: Vec<Mutation>,
        validate_only: bool,
    ) -> Result<Vec<Outcome>, RegistryError> {
        if mutations.len() > MAX_MUTATIONS {
            return Err(RegistryError::Limit {
                what: "resources changed at once".to_owned(),
                limit: MAX_MUTATIONS,
            });
        }
        let (began, mut refused) = (Instant::now(), None);
        loop {
            match self.catch_up().await {
                Ok(()) => {}
                // What would come of a change can be said without the store.
                Err(error) if validate_only => tracing::debug!(%error, "judged by what is known"),
                Err(error) => return Err(error.into()),
            }
            if refused.is_some_and(|fence| fence == self.snapshot.load().fence) {
                // A store that went back is read again meanwhile.
                tokio::time::sleep(NOTHING_NEW).await;
            }
            // Not held while waiting: what reads the store again needs it.
            let _writing = self.writing.lock().await;
            let snapshot = self.snapshot.load_full();
            match self
                .try_change(&snapshot, actor, mutations.clone(), validate_only)
                .await
            {
                Err(RegistryError::Busy) if began.elapsed() < CHANGE_WITHIN => refused = Some(snapshot.fence),
                done => return done,
            }
        }
    }

    /// [`Registry::change`], once: [`RegistryError::Busy`] when another change came before it.
    async fn try_change(
        &self,
        snapshot: &Snapshot,
        actor: &Actor,
        mutations: Vec<Mutation>,
        validate_only: bool,
    ) -> Result<Vec<Outcome>, RegistryError> {
        // As it is stored: whoever reads it back finds the same.
        let now = from_millis(to_millis(SystemTime::now()));
        let (mut states, mut planned) = (snapshot.states.clone(), Vec::new());
        let mut invalid = Vec::new();
        for mutation in mutations {
            match self.plan(&mut states, mutation, now) {
                Ok(plan) => planned.push(plan),
                Err(RegistryError::Invalid(list)) => invalid.extend(list),
                Err(error) => return Err(error),
            }
        }
        if !invalid.is_empty() {
            return Err(RegistryError::Invalid(invalid));
        }
        let audience = if actor.role == Actor::TENANT_ADMIN {
            Audience::Tenant
        } else {
            Audience::Provider
        };
        check_whole(&states, &planned, audience)?;
        if !validate_only
            && planned
                .iter()
                .any(|plan| plan.outcome.action != Action::Unchanged)
        {
            self.write(snapshot, actor, now, &mut planned).await?;
        }
        Ok(planned.into_iter().map(|plan| plan.outcome).collect())
    }

    /// Checks one change by itself and does it in `states`.
    fn plan(
        &self,
        states: &mut States,
        mutation: Mutation,
        now: SystemTime,
    ) -> Result<Planned, RegistryError> {
        let (wanted, mask, must) = match mutation {
            Mutation::Create(resource) => (resource, Vec::new(), Some(false)),
            Mutation::Update(resource, mask) => (resource, mask, Some(true)),
            Mutation::Apply(resource) => (resource, Vec::new(), None),
            Mutation::Delete { id, version, cascade } => return plan_delete(states, id, &version, cascade),
        };
        let id = id_of(&wanted);
        let before = get(states, &id);
        match (&before, must) {
            (Some(_), Some(false)) => return Err(RegistryError::AlreadyExists(id)),
            (None, Some(true)) => return Err(RegistryError::NotFound(id)),
            _ => {}
        }
        check_version(&id, before.as_ref(), version_of(&wanted))?;
        let external_before = before
            .as_ref()
            .map(|stored| to_api(&stored.object, Some(&stored.meta)));
        let wanted = match &external_before {
            Some(current) => diff::overlay(current, &wanted, &mask),
            None => Ok(*wanted),
        };
        let object = wanted.and_then(|wanted| self.validate(&wanted, before.as_ref()));
        let object = object.map_err(|violations| RegistryError::Invalid(vec![(id.clone(), violations)]))?;
        let action = match &before {
            None => Action::Create,
            Some(stored) if stored.object == object => Action::Unchanged,
            Some(_) => Action::Update,
        };
        let created = before.as_ref().map_or(now, |stored| stored.meta.created);
        let meta = match (&before, action) {
            (Some(stored), Action::Unchanged) => stored.meta,
            _ => Meta {
                created,
                updated: now,
                revision: 0,
            },
        };
        let external = to_api(&object, Some(&meta));
        let fields = diff::changes(external_before.as_ref(), Some(&external));
        set(
            states,
            &id,
            Some(Stored {
                object: object.clone(),
                meta,
            }),
        );
        let outcome = Outcome {
            id,
            action,
            fields,
            resource: Some(external),
        };
        Ok(Planned {
            outcome,
            before,
            after: Some((object, meta)),
            cascade: false,
        })
    }

    fn validate(&self, wanted: &Resource, before: Option<&Stored>) -> Result<Object, Violations> {
        Ok(match wanted {
            Resource::Tenant(tenant) => Object::Tenant(validate::tenant(tenant)?.into()),
            Resource::AddressPool(pool) => Object::AddressPool(validate::pool(pool)?.into()),
            Resource::Connection(connection) => {
                Object::Connection(validate::connection(connection, &*self.proposals)?.into())
            }
            Resource::Credential(credential) => {
                let previous = match before.map(|stored| &stored.object) {
                    Some(Object::Credential(previous)) => Some(&**previous),
                    _ => None,
                };
                Object::Credential(validate::credential(credential, previous, &*self.sealer)?.into())
            }
        })
    }

    /// Writes the planned changes, takes them into the snapshot, and gives the outcomes their revision.
    async fn write(
        &self,
        snapshot: &Snapshot,
        actor: &Actor,
        now: SystemTime,
        planned: &mut [Planned],
    ) -> Result<(), RegistryError> {
        let fence = snapshot.fence.map_or(Expect::Absent, Expect::Revision);
        let mut txn = Txn::new().when(FENCE, fence);
        let mut deleted_tenants = Vec::new();
        for plan in planned
            .iter()
            .filter(|plan| plan.outcome.action != Action::Unchanged)
        {
            let key = plan.outcome.id.key();
            let expect = plan.before.as_ref().map_or(Expect::Absent, |stored| {
                if stored.meta.revision == 0 {
                    Expect::Any
                } else {
                    Expect::Revision(stored.meta.revision)
                }
            });
            txn = txn.when(key.as_str(), expect);
            txn = match &plan.after {
                Some((object, meta)) => txn.put(key, encode(object, meta.created, meta.updated)?),
                None => txn.delete(key),
            };
            if plan.cascade {
                let tenant = &plan.outcome.id.tenant;
                txn.then.push(Op::DeletePrefix {
                    prefix: format!("{CONFIG}{tenant}/"),
                });
                txn.then.push(Op::DeletePrefix {
                    prefix: format!("{LEASES}{tenant}/"),
                });
                deleted_tenants.push(tenant.clone());
            }
        }
        let changes = planned
            .iter()
            .filter(|plan| plan.outcome.action != Action::Unchanged)
            .map(|plan| plan.outcome.to_api())
            .collect();
        let (txn, records) = self.trail.prepare(txn, actor, now, 0, changes)?;
        // The fence comes last: who has seen it has seen the whole change.
        let txn = txn.put(FENCE, "");
        let done = self.store.txn(txn).await?;
        if !done.committed {
            return Err(RegistryError::Busy);
        }
        self.trail.commit(records);
        let mut changed: BTreeMap<Id, Option<Stored>> = BTreeMap::new();
        for tenant in deleted_tenants {
            let state = snapshot.states.get(&tenant);
            changed.extend(
                state
                    .into_iter()
                    .flat_map(|state| state.ids())
                    .map(|id| (id, None)),
            );
        }
        for plan in planned
            .iter_mut()
            .filter(|plan| plan.outcome.action != Action::Unchanged)
        {
            let stored = plan.after.take().map(|(object, meta)| {
                let meta = Meta {
                    revision: done.revision,
                    ..meta
                };
                plan.outcome.resource = Some(to_api(&object, Some(&meta)));
                Stored { object, meta }
            });
            changed.insert(plan.outcome.id.clone(), stored);
        }
        self.publish(
            changed.into_iter().collect(),
            done.revision,
            Some(done.revision),
            true,
        );
        Ok(())
    }

    /// Writes a command that changes no resource into the audit trail.
    ///
    /// # Errors
    /// When the store cannot write it.
    pub async fn record_command(&self, actor: &Actor, change: v1::Change) -> Result<(), RegistryError> {
        let _writing = self.writing.lock().await;
        let mut above = 0;
        for _ in 0..RECORD_TRIES {
            let changes = vec![change.clone()];
            let (txn, records) = self
                .trail
                .prepare(Txn::new(), actor, SystemTime::now(), above, changes)?;
            if self.store.txn(txn).await?.committed {
                self.trail.commit(records);
                return Ok(());
            }
            above = records.last().map_or(above, |record| record.id);
        }
        Err(RegistryError::Busy)
    }

    /// The external form of a stored resource, with what is known at this moment.
    pub fn external(&self, id: &Id) -> Option<Resource> {
        let stored = self.get(id)?;
        Some(self.complete(to_api(&stored.object, Some(&stored.meta))))
    }

    /// Fills in what is not stored: use of pools, contents of certificates.
    pub fn complete(&self, mut resource: Resource) -> Resource {
        match &mut resource {
            Resource::AddressPool(pool) => {
                pool.in_use = self
                    .pool(&pool.tenant, &pool.name)
                    .map_or(0, |pool| pool.in_use());
            }
            Resource::Credential(credential) => {
                credential.certificate_info = certificate_info(&credential.certificates);
            }
            Resource::Tenant(_) | Resource::Connection(_) => {}
        }
        resource
    }
}

fn check_version(id: &Id, before: Option<&Stored>, version: &str) -> Result<(), RegistryError> {
    let Some(before) = before.filter(|_| !version.is_empty()) else {
        return Ok(());
    };
    let found = before.meta.revision;
    if version.parse() == Ok(found) {
        Ok(())
    } else {
        Err(RegistryError::Version {
            id: id.clone(),
            found,
        })
    }
}

fn plan_delete(states: &mut States, id: Id, version: &str, cascade: bool) -> Result<Planned, RegistryError> {
    let Some(before) = get(states, &id) else {
        return Err(RegistryError::NotFound(id));
    };
    check_version(&id, Some(&before), version)?;
    let inside = match (id.kind, states.get(&id.tenant)) {
        (Kind::Tenant, Some(state)) => state.ids(),
        _ => Vec::new(),
    };
    if !inside.is_empty() && !cascade {
        let list: Vec<String> = inside.iter().take(10).map(ToString::to_string).collect();
        return Err(RegistryError::InUse(format!(
            "{id} still has {} resources ({}{}): delete them first, or ask for cascade",
            inside.len(),
            list.join(", "),
            if inside.len() > list.len() { ", …" } else { "" },
        )));
    }
    for inner in &inside {
        set(states, inner, None);
    }
    set(states, &id, None);
    let external = to_api(&before.object, Some(&before.meta));
    let fields = diff::changes(Some(&external), None);
    let cascade = cascade && id.kind == Kind::Tenant;
    let outcome = Outcome {
        id,
        action: Action::Delete,
        fields,
        resource: None,
    };
    Ok(Planned {
        outcome,
        before: Some(before),
        after: None,
        cascade,
    })
}

/// Checks the states with every change done.
fn check_whole(states: &States, planned: &[Planned], audience: Audience) -> Result<(), RegistryError> {
    let limit = |what: &str, count: usize, limit: usize| {
        if count > limit {
            Err(RegistryError::Limit {
                what: what.to_owned(),
                limit,
            })
        } else {
            Ok(())
        }
    };
    limit("tenants", states.len(), MAX_TENANTS)?;
    let touched: BTreeSet<&String> = planned.iter().map(|plan| &plan.outcome.id.tenant).collect();
    let mut wrong = Vec::new();
    for tenant in touched {
        if let Some(state) = states.get(tenant) {
            limit(
                &format!("connections of {tenant}"),
                state.connections.len(),
                MAX_PER_TENANT,
            )?;
            limit(
                &format!("address pools of {tenant}"),
                state.pools.len(),
                MAX_PER_TENANT,
            )?;
            limit(
                &format!("credentials of {tenant}"),
                state.credentials.len(),
                MAX_CREDENTIALS,
            )?;
        }
        wrong.extend(references::check(states, tenant, audience));
    }
    let is_planned = |id: &Id| {
        planned
            .iter()
            .any(|plan| plan.outcome.id == *id && plan.after.is_some())
    };
    let (own, others): (Vec<_>, Vec<_>) = wrong.into_iter().partition(|(id, _)| is_planned(id));
    if !own.is_empty() {
        return Err(RegistryError::Invalid(own));
    }
    match others.first() {
        None => Ok(()),
        Some(_) => Err(RegistryError::InUse(format!(
            "other resources would no longer be right:\n{}",
            list_invalid(&others)
        ))),
    }
}

/// The steps of the largest change fit into a transaction: two for each resource, its record, and old records.
const _: () = assert!(MAX_MUTATIONS * 4 + 16 <= Limits::TXN_STEPS);
