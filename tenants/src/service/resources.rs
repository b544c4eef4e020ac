//! The services of the four kinds of resources, and the one that applies whole sets.

use api::v1;
use api::v1::address_pool_service_server::AddressPoolService;
use api::v1::apply_service_server::ApplyService;
use api::v1::connection_service_server::ConnectionService;
use api::v1::credential_service_server::CredentialService;
use api::v1::resource::Resource;
use api::v1::tenant_service_server::TenantService;
use tonic::{Request, Response, Status};

use super::Services;
use super::error::of_registry;
use super::guard::Caller;
use crate::object::Object;
use crate::{Id, Kind, Mutation};

/// Resources in an answer when the question names no number, and at most.
const PAGE: (u32, u32) = (100, 1_000);

/// How many are wanted on a page.
pub(super) fn page_size(asked: u32) -> usize {
    let size = if asked == 0 { PAGE.0 } else { asked.min(PAGE.1) };
    usize::try_from(size).unwrap_or(1_000)
}

/// The answer to a write that gave nothing back, which the registry does not do.
fn nothing() -> Status {
    Status::internal("the change gave no resource")
}

impl Services {
    fn read(&self, caller: &Caller, id: &Id) -> Result<Resource, Status> {
        caller.owns(&id.tenant)?;
        self.inner
            .registry
            .external(id)
            .ok_or_else(|| Status::not_found(format!("{id} does not exist")))
    }

    /// A page of a kind, with the token of the next.
    fn page(
        &self,
        caller: &Caller,
        kind: Kind,
        tenant: &str,
        wanted: impl Fn(&Id) -> bool,
        size: u32,
        token: &str,
    ) -> Result<(Vec<Resource>, String), Status> {
        let tenant = caller.scope(tenant)?;
        let after = match token.split_once('/') {
            _ if token.is_empty() => None,
            Some((tenant, name)) => Some(Id::new(kind, tenant, name)),
            None => {
                return Err(Status::invalid_argument(
                    "page_token: not one that this service gave",
                ));
            }
        };
        let size = page_size(size);
        let mut ids = self.inner.registry.list(kind, tenant.as_deref(), after.as_ref());
        ids.retain(wanted);
        let more = ids.len() > size;
        ids.truncate(size);
        let next = ids
            .last()
            .filter(|_| more)
            .map(|id| format!("{}/{}", id.tenant, id.name))
            .unwrap_or_default();
        Ok((
            ids.iter()
                .filter_map(|id| self.inner.registry.external(id))
                .collect(),
            next,
        ))
    }

    /// Whether a credential is of the kind that a list asks for.
    fn is_of_kind(&self, request: &v1::ListCredentialsRequest, id: &Id) -> bool {
        if request.kind == 0 {
            return true;
        }
        let wanted = api::words::word_of::<v1::CredentialKind>(request.kind);
        match self.inner.registry.get(id).map(|stored| stored.object) {
            Some(Object::Credential(credential)) => credential.kind.name() == wanted,
            _ => false,
        }
    }

    async fn write(
        &self,
        caller: &Caller,
        mutation: Mutation,
        only_check: bool,
    ) -> Result<Option<Resource>, Status> {
        let changed = self
            .inner
            .registry
            .change(&caller.actor, vec![mutation], only_check)
            .await;
        let mut outcomes = changed.map_err(|error| of_registry(&error))?;
        let resource = outcomes.pop().and_then(|outcome| outcome.resource);
        Ok(resource.map(|resource| self.inner.registry.complete(resource)))
    }
}

fn paths(mask: Option<prost_types::FieldMask>) -> Vec<String> {
    mask.map(|mask| mask.paths).unwrap_or_default()
}

macro_rules! resource_service {
    (
        $service:ident, $variant:ident, $message:ident, $field:ident, $items:ident, $of:expr,
        get $get:ident, list $list:ident => $listed:ident, create $create:ident, update $update:ident,
        delete $delete:ident => $deleted:ident,
        tenant of $request:ident: $tenant:expr, filter $filter:expr, wanted $wanted:expr, cascade $cascade:expr
    ) => {
        #[tonic::async_trait]
        impl $service for Services {
            async fn get(&self, request: Request<v1::$get>) -> Result<Response<v1::$message>, Status> {
                let caller = Caller::of(&request)?;
                let $request = request.into_inner();
                match self.read(&caller, &Id::new(Kind::$variant, $tenant, &$request.name))? {
                    Resource::$variant(found) => Ok(Response::new(found)),
                    _ => Err(nothing()),
                }
            }

            async fn list(&self, request: Request<v1::$list>) -> Result<Response<v1::$listed>, Status> {
                let caller = Caller::of(&request)?;
                let request = request.into_inner();
                let filter: fn(&v1::$list) -> &str = $filter;
                let wanted: fn(&Self, &v1::$list, &Id) -> bool = $wanted;
                let (found, next_page_token) = self.page(
                    &caller,
                    Kind::$variant,
                    filter(&request),
                    |id| id.name.contains(&request.name_contains) && wanted(self, &request, id),
                    request.page_size,
                    &request.page_token,
                )?;
                let $items = found
                    .into_iter()
                    .filter_map(|resource| match resource {
                        Resource::$variant(item) => Some(item),
                        _ => None,
                    })
                    .collect();
                Ok(Response::new(v1::$listed {
                    $items,
                    next_page_token,
                }))
            }

            async fn create(&self, request: Request<v1::$create>) -> Result<Response<v1::$message>, Status> {
                let caller = Caller::of(&request)?;
                let request = request.into_inner();
                let wanted = request
                    .$field
                    .ok_or_else(|| Status::invalid_argument(concat!(stringify!($field), ": missing")))?;
                let tenant_of: fn(&v1::$message) -> &str = $of;
                caller.owns(tenant_of(&wanted))?;
                let mutation = Mutation::Create(Box::new(Resource::$variant(wanted)));
                match self.write(&caller, mutation, request.validate_only).await? {
                    Some(Resource::$variant(made)) => Ok(Response::new(made)),
                    _ => Err(nothing()),
                }
            }

            async fn update(&self, request: Request<v1::$update>) -> Result<Response<v1::$message>, Status> {
                let caller = Caller::of(&request)?;
                let request = request.into_inner();
                let wanted = request
                    .$field
                    .ok_or_else(|| Status::invalid_argument(concat!(stringify!($field), ": missing")))?;
                let tenant_of: fn(&v1::$message) -> &str = $of;
                caller.owns(tenant_of(&wanted))?;
                let mutation = Mutation::Update(
                    Box::new(Resource::$variant(wanted)),
                    paths(request.update_mask),
                );
                match self.write(&caller, mutation, request.validate_only).await? {
                    Some(Resource::$variant(made)) => Ok(Response::new(made)),
                    _ => Err(nothing()),
                }
            }

            async fn delete(&self, request: Request<v1::$delete>) -> Result<Response<v1::$deleted>, Status> {
                let caller = Caller::of(&request)?;
                let $request = request.into_inner();
                let id = Id::new(Kind::$variant, $tenant, &$request.name);
                caller.owns(&id.tenant)?;
                let cascade: fn(&v1::$delete) -> bool = $cascade;
                let mutation = Mutation::Delete {
                    id,
                    version: $request.resource_version.clone(),
                    cascade: cascade(&$request),
                };
                self.write(&caller, mutation, $request.validate_only)
                    .await?;
                Ok(Response::new(v1::$deleted {}))
            }
        }
    };
}

resource_service!(
    TenantService, Tenant, Tenant, tenant, tenants, |t| &t.name,
    get GetTenantRequest, list ListTenantsRequest => ListTenantsResponse, create CreateTenantRequest,
    update UpdateTenantRequest, delete DeleteTenantRequest => DeleteTenantResponse,
    tenant of request: &request.name, filter |_| "", wanted |_, _, _| true, cascade |r| r.cascade
);
resource_service!(
    ConnectionService, Connection, Connection, connection, connections, |c| &c.tenant,
    get GetConnectionRequest, list ListConnectionsRequest => ListConnectionsResponse, create CreateConnectionRequest,
    update UpdateConnectionRequest, delete DeleteConnectionRequest => DeleteConnectionResponse,
    tenant of request: &request.tenant, filter |r| &r.tenant, wanted |_, _, _| true, cascade |_| false
);
resource_service!(
    AddressPoolService, AddressPool, AddressPool, address_pool, address_pools,
    |p| &p.tenant,
    get GetAddressPoolRequest, list ListAddressPoolsRequest => ListAddressPoolsResponse,
    create CreateAddressPoolRequest, update UpdateAddressPoolRequest,
    delete DeleteAddressPoolRequest => DeleteAddressPoolResponse,
    tenant of request: &request.tenant, filter |r| &r.tenant, wanted |_, _, _| true, cascade |_| false
);
resource_service!(
    CredentialService, Credential, Credential, credential, credentials, |c| &c.tenant,
    get GetCredentialRequest, list ListCredentialsRequest => ListCredentialsResponse, create CreateCredentialRequest,
    update UpdateCredentialRequest, delete DeleteCredentialRequest => DeleteCredentialResponse,
    tenant of request: &request.tenant, filter |r| &r.tenant, wanted Services::is_of_kind, cascade |_| false
);

#[tonic::async_trait]
impl ApplyService for Services {
    async fn apply(&self, request: Request<v1::ApplyRequest>) -> Result<Response<v1::ApplyResponse>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let mut mutations = Vec::with_capacity(request.resources.len());
        for (index, resource) in request.resources.into_iter().enumerate() {
            let resource = resource.resource.ok_or_else(|| {
                Status::invalid_argument(format!("resources[{index}]: neither tenant nor any other kind"))
            })?;
            match &resource {
                // A tenant's limits and routing domain are the provider's business.
                Resource::Tenant(_) => caller.is_operator()?,
                Resource::Connection(connection) => caller.owns(&connection.tenant)?,
                Resource::AddressPool(pool) => caller.owns(&pool.tenant)?,
                Resource::Credential(credential) => caller.owns(&credential.tenant)?,
            }
            mutations.push(Mutation::Apply(Box::new(resource)));
        }
        let changed = self
            .inner
            .registry
            .change(&caller.actor, mutations, request.validate_only)
            .await;
        let changes = changed
            .map_err(|error| of_registry(&error))?
            .iter()
            .map(crate::registry::Outcome::to_api)
            .collect();
        Ok(Response::new(v1::ApplyResponse { changes }))
    }
}
