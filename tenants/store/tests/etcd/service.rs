//! What a healthy cluster does: the contract, order, limits, refusals, certificates and passwords.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use etcd_client::{AlarmAction, AlarmType, Client, Permission};
use futures::StreamExt;
use store::contract::{self, Factory};
use store::etcd::{EtcdSettings, EtcdTls, EtcdUser};
use store::{Etcd, Expect, Limits, Op, Store, StoreError, Txn};

use crate::rig::{Cluster, isolated};

struct Real(EtcdSettings);

#[async_trait]
impl Factory for Real {
    async fn open(&self) -> Arc<dyn Store> {
        Arc::new(Etcd::open(self.0.clone()).await.unwrap())
    }

    async fn advance(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }
}

#[test]
fn keeps_the_contract_with_one_member() {
    isolated("service::keeps_the_contract_with_one_member", || async {
        let cluster = Cluster::start(1).await;
        contract::run(&Real(cluster.settings())).await;
    });
}

#[test]
fn keeps_the_contract_with_three_members() {
    isolated("service::keeps_the_contract_with_three_members", || async {
        let mut cluster = Cluster::start(3).await;
        contract::run(&Real(cluster.settings())).await;
        let store = cluster.open().await;
        let warned = store
            .warnings()
            .iter()
            .filter(|warning| warning.contains("3.5.28"))
            .count();
        assert_eq!(
            warned,
            3,
            "3.4.23 is warned of, for each member: {:?}",
            store.warnings()
        );
        let members = store.inspect().await;
        assert_eq!(members.len(), 3);
        assert_eq!(members.iter().filter(|member| member.leader).count(), 1);
        for member in &members {
            assert_eq!(member.version.as_deref(), Some("3.4.23"));
            assert!(member.database_octets > 0 && !member.latency.is_zero());
        }
        cluster.kill(2);
        let members = store.inspect().await;
        assert_eq!(members[2].version, None);
        assert!(members[2].warnings[0].contains("does not answer"), "{members:?}");
        assert!(members[0].version.is_some());
    });
}

#[test]
fn writes_go_together_and_keep_their_order() {
    isolated("service::writes_go_together_and_keep_their_order", || async {
        let cluster = Cluster::start(1).await;
        let store = Arc::new(cluster.open().await);
        let mut watch = store.watch("order/", None).await.unwrap();
        let mut writes: Vec<_> = (0..2_000_u32)
            .map(|n| {
                let store = Arc::clone(&store);
                Box::pin(async move {
                    let key = format!("order/{}", n % 40);
                    store.put_if(&key, n.to_be_bytes().to_vec(), Expect::Any).await
                })
            })
            .collect();
        // Asked for one after the other, without waiting for any.
        let asking = async {
            for write in &mut writes {
                assert!(futures::poll!(write.as_mut()).is_pending());
            }
        };
        tokio::task::unconstrained(asking).await;
        for outcome in futures::future::join_all(writes).await {
            outcome.unwrap();
        }
        let mut last = [None::<u32>; 40];
        let (mut revision, mut revisions) = (0, 0);
        for _ in 0..2_000 {
            let event = watch.next().await.unwrap().unwrap();
            assert!(event.revision >= revision, "revisions do not fall");
            revisions += usize::from(event.revision > revision);
            revision = event.revision;
            let n = u32::from_be_bytes(event.value.unwrap().try_into().unwrap());
            let last = &mut last[usize::try_from(n % 40).unwrap()];
            assert!(*last < Some(n), "writes of one key stay in order");
            *last = Some(n);
        }
        let counters = store.counters();
        assert_eq!(counters.transactions, 2_000);
        assert!(
            counters.commits < 500 && revisions < 500,
            "writes share transactions: {counters:?}"
        );
        assert_eq!((counters.events_lost, counters.indeterminate), (0, 0));
    });
}

/// All compare the same fence, which is looked at once; when it falls, each is refused with what it found.
#[test]
fn a_fence_that_falls_refuses_all_that_go_together() {
    isolated(
        "service::a_fence_that_falls_refuses_all_that_go_together",
        || async {
            let cluster = Cluster::start(1).await;
            let store = cluster.open().await;
            store
                .put_if("fence", b"1".to_vec(), Expect::Absent)
                .await
                .unwrap();
            let round = |round: u32| {
                let writes = (0..200_u32).map(|n| {
                    let key = format!("fenced/{round}/{n}");
                    let txn = Txn::new()
                        // Every tenth finds its own key there.
                        .when(
                            if n % 10 == 9 {
                                "fence".to_owned()
                            } else {
                                key.clone()
                            },
                            Expect::Absent,
                        )
                        .when_value("fence", "1")
                        .put(key, "x");
                    store.txn(txn)
                });
                futures::future::join_all(writes)
            };
            for (n, outcome) in round(1).await.into_iter().enumerate() {
                assert_eq!(outcome.unwrap().committed, n % 10 != 9, "{n}");
            }
            let commits = store.counters().commits;
            assert!(commits < 40, "they share transactions: {commits}");
            let moved = store
                .put_if("fence", b"2".to_vec(), Expect::Present)
                .await
                .unwrap();
            for outcome in round(2).await {
                let outcome = outcome.unwrap();
                assert!(!outcome.committed);
                assert_eq!(outcome.found, Some(moved));
            }
            assert!(store.range("fenced/2/", None, 10).await.unwrap().0.is_empty());
            store
                .put_if("fence", b"1".to_vec(), Expect::Present)
                .await
                .unwrap();
            assert!(
                round(3)
                    .await
                    .iter()
                    .any(|outcome| outcome.as_ref().unwrap().committed)
            );
            assert_eq!(store.counters().indeterminate, 0);
        },
    );
}

#[test]
fn limits_are_told_before_anything_happens() {
    isolated("service::limits_are_told_before_anything_happens", || async {
        let cluster = Cluster::start(1).await;
        let store = cluster.open().await;
        let many = |count: u32| (0..count).fold(Txn::new(), |txn, n| txn.put(format!("many/{n:04}"), "x"));
        assert!(store.txn(many(126)).await.unwrap().committed);
        let refused = store.txn(many(127)).await.unwrap_err();
        assert!(
            matches!(
                refused,
                StoreError::TooLarge {
                    size: 127,
                    limit: 126,
                    ..
                }
            ),
            "{refused}"
        );
        let compares = (0..63).fold(Txn::new(), |txn, n| {
            txn.when(format!("none/{n}"), Expect::Absent)
                .put(format!("c/{n}"), "x")
        });
        assert!(
            store.txn(compares.clone()).await.unwrap().committed,
            "the longest that goes with others"
        );
        let whole = store.put_if("whole", vec![7; Limits::VALUE], Expect::Any).await;
        assert!(whole.is_ok(), "a value of the longest length");
        let two = Txn::new()
            .put("a", vec![0; Limits::VALUE])
            .put("b", vec![0; Limits::VALUE]);
        assert!(matches!(store.txn(two).await, Err(StoreError::TooLarge { .. })));

        // What the members allow may be less than the settings say.
        let mut settings = cluster.settings();
        settings.max_txn_ops = 1_000;
        settings.max_request_octets = 100 << 20;
        let bold = Etcd::open(settings).await.unwrap();
        let innocent = bold.put_if("innocent", b"x".to_vec(), Expect::Any);
        let two = Txn::new()
            .put("a", vec![0; Limits::VALUE])
            .put("b", vec![0; Limits::VALUE]);
        let (innocent, guilty, large) = tokio::join!(innocent, bold.txn(many(500)), bold.txn(two));
        innocent.unwrap();
        assert!(matches!(guilty, Err(StoreError::TooLarge { .. })), "{guilty:?}");
        assert!(matches!(large, Err(StoreError::TooLarge { .. })), "{large:?}");
        assert!(bold.get("a").await.unwrap().is_none());
    });
}

#[test]
fn a_key_may_be_written_twice_in_a_transaction() {
    isolated("service::a_key_may_be_written_twice_in_a_transaction", || async {
        let cluster = Cluster::start(1).await;
        let store = cluster.open().await;
        for key in ["p/a", "p/b", "p/c", "q"] {
            store.put_if(key, b"old".to_vec(), Expect::Any).await.unwrap();
        }
        let mut txn = Txn::new().put("p/a", "1").put("q", "1").put("q", "2");
        for prefix in ["p/", "p/a", "p/"] {
            txn.then.push(Op::DeletePrefix {
                prefix: prefix.into(),
            });
        }
        let txn = txn.put("p/b", "3").put("p/d", "4").delete("p/d");
        assert!(store.txn(txn).await.unwrap().committed);
        let (left, _) = store.range("", None, 100).await.unwrap();
        let left: Vec<_> = left
            .iter()
            .map(|(key, entry)| (key.as_str(), entry.value.as_slice()))
            .collect();
        assert_eq!(left, [("p/b", b"3".as_slice()), ("q", b"2".as_slice())]);
    });
}

#[test]
fn a_long_list_is_of_one_revision() {
    isolated("service::a_long_list_is_of_one_revision", || async {
        let cluster = Cluster::start(1).await;
        let store = Arc::new(cluster.open().await);
        let puts = (0..1_700_u32)
            .map(|n| (format!("long/{n:05}"), vec![1; 4_000]))
            .map(|(key, value)| {
                let store = Arc::clone(&store);
                async move { store.put_if(&key, value, Expect::Any).await }
            });
        for outcome in futures::future::join_all(puts).await {
            outcome.unwrap();
        }
        let (all, revision) = store.range("long/", None, Limits::RANGE).await.unwrap();
        assert_eq!(all.len(), 1_700);
        assert!(all.windows(2).all(|pair| pair[0].0 < pair[1].0));
        assert!(all.iter().all(|(_, entry)| entry.revision <= revision));
        let (some, _) = store.range("long/", Some("long/00499"), 701).await.unwrap();
        assert_eq!((some.len(), some[0].0.as_str()), (701, "long/00500"));
        let (none, _) = store.range("long/", Some("longer"), 10).await.unwrap();
        assert!(none.is_empty());
    });
}

#[test]
fn a_full_cluster_says_that_somebody_has_to_act() {
    isolated(
        "service::a_full_cluster_says_that_somebody_has_to_act",
        || async {
            let cluster = Cluster::start(1).await;
            let store = cluster.open().await;
            let mut client = cluster.client(0).await;
            let member = client.status().await.unwrap().header().unwrap().member_id();
            let mut options = etcd_client::AlarmOptions::new();
            options.with_member(member);
            client
                .alarm(AlarmAction::Activate, AlarmType::Nospace, Some(options.clone()))
                .await
                .unwrap();
            let refused = store.put_if("a", b"1".to_vec(), Expect::Any).await.unwrap_err();
            assert!(
                matches!(refused, StoreError::NoSpace { .. }) && !refused.is_retryable(),
                "{refused}"
            );
            assert!(store.get("a").await.unwrap().is_none(), "reads go on");
            let warned = cluster.open().await;
            assert!(
                warned
                    .warnings()
                    .iter()
                    .any(|warning| warning.contains("NOSPACE")),
                "{:?}",
                warned.warnings()
            );
            client
                .alarm(AlarmAction::Deactivate, AlarmType::Nospace, Some(options))
                .await
                .unwrap();
            store.put_if("a", b"1".to_vec(), Expect::Any).await.unwrap();
        },
    );
}

#[test]
fn certificates_and_passwords_are_asked_for() {
    isolated("service::certificates_and_passwords_are_asked_for", || async {
        use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = directory.path().join(name);
            std::fs::write(&path, text).unwrap();
            path.display().to_string()
        };
        let ca_key = KeyPair::generate().unwrap();
        let mut ca = CertificateParams::new(Vec::new()).unwrap();
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca_text = ca.self_signed(&ca_key).unwrap().pem();
        let issuer = Issuer::new(ca, ca_key);
        let leaf = |names: &[&str]| {
            let key = KeyPair::generate().unwrap();
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            let certificate = CertificateParams::new(names)
                .unwrap()
                .signed_by(&key, &issuer)
                .unwrap();
            (certificate.pem(), key.serialize_pem())
        };
        let (server, server_key) = leaf(&["127.0.0.1", "etcd.test"]);
        let (ours, our_key) = leaf(&["concentrator.test"]);
        let extra = [
            format!("--trusted-ca-file={}", write("ca.pem", &ca_text)),
            format!("--cert-file={}", write("server.pem", &server)),
            format!("--key-file={}", write("server.key", &server_key)),
            "--client-cert-auth".to_owned(),
            // Tokens that expire while the test runs.
            "--auth-token-ttl=2".to_owned(),
        ];
        // Debian's 3.4.23 does not know the last one.
        let cluster = Cluster::start_with(1, "https", &extra[..4]).await;
        let tls = EtcdTls {
            authorities: ca_text.clone().into_bytes(),
            identity: Some((ours.into_bytes(), our_key.into_bytes())),
            server_name: Some("etcd.test".to_owned()),
        };
        let mut settings = cluster.settings();
        settings.tls = Some(tls.clone());
        settings.call_timeout = Duration::from_secs(15);
        let store = Etcd::open(settings.clone()).await.unwrap();
        store.put_if("a", b"1".to_vec(), Expect::Absent).await.unwrap();

        settings.call_timeout = Duration::from_secs(1);
        let mut nameless = settings.clone();
        nameless.tls = Some(EtcdTls {
            identity: None,
            ..tls.clone()
        });
        assert!(
            Etcd::open(nameless).await.is_err(),
            "without a certificate of ours"
        );
        let mut foreign = settings.clone();
        let other = KeyPair::generate().unwrap();
        let mut other_ca = CertificateParams::new(Vec::new()).unwrap();
        other_ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        foreign.tls = Some(EtcdTls {
            authorities: other_ca.self_signed(&other).unwrap().pem().into_bytes(),
            ..tls.clone()
        });
        assert!(
            Etcd::open(foreign).await.is_err(),
            "a member of another authority"
        );

        let options = etcd_client::TlsOptions::new()
            .ca_certificate(etcd_client::Certificate::from_pem(&tls.authorities))
            .identity(etcd_client::Identity::from_pem(
                &tls.identity.as_ref().unwrap().0,
                &tls.identity.as_ref().unwrap().1,
            ))
            .domain_name("etcd.test");
        let options = etcd_client::ConnectOptions::new().with_tls(options);
        let mut client = Client::connect(cluster.endpoints(), Some(options)).await.unwrap();
        client.role_add("root").await.unwrap();
        client.user_add("root", "rootpw", None).await.unwrap();
        client.user_grant_role("root", "root").await.unwrap();
        client.role_add("vpn").await.unwrap();
        for root in ["vpn/", "vpn.writer/"] {
            let end = format!("{}0", root.trim_end_matches('/'));
            let all = Permission::read_write(root).with_range_end(end);
            client.role_grant_permission("vpn", all).await.unwrap();
        }
        client.user_add("node", "nodepw", None).await.unwrap();
        client.user_grant_role("node", "vpn").await.unwrap();
        client.auth_enable().await.unwrap();

        let refused = Etcd::open(settings.clone()).await.unwrap_err();
        assert!(
            matches!(refused, StoreError::Refused { .. }) && !refused.is_retryable(),
            "{refused}"
        );
        let mut wrong = settings.clone();
        wrong.user = Some(EtcdUser {
            name: "node".into(),
            password: "wrong".into(),
        });
        assert!(matches!(Etcd::open(wrong).await, Err(StoreError::Refused { .. })));
        settings.user = Some(EtcdUser {
            name: "node".into(),
            password: "nodepw".into(),
        });
        settings.call_timeout = Duration::from_secs(5);
        let store = Etcd::open(settings.clone()).await.unwrap();
        let mut watch = store.watch("", None).await.unwrap();
        store.put_if("a", b"2".to_vec(), Expect::Present).await.unwrap();
        assert_eq!(watch.next().await.unwrap().unwrap().value, Some(b"2".to_vec()));
        let lease = store.lease_grant(Duration::from_secs(5)).await.unwrap();
        store.lease_keep_alive(lease).await.unwrap();
        settings.namespace = "elsewhere".into();
        assert!(matches!(
            Etcd::open(settings).await,
            Err(StoreError::Refused { .. })
        ));
        // A change of users makes the token old; the store logs in again.
        let options = etcd_client::TlsOptions::new()
            .ca_certificate(etcd_client::Certificate::from_pem(&tls.authorities))
            .identity(etcd_client::Identity::from_pem(
                &tls.identity.as_ref().unwrap().0,
                &tls.identity.as_ref().unwrap().1,
            ))
            .domain_name("etcd.test");
        let options = etcd_client::ConnectOptions::new()
            .with_tls(options)
            .with_user("root", "rootpw");
        let mut root = Client::connect(cluster.endpoints(), Some(options)).await.unwrap();
        root.user_add("another", "pw", None).await.unwrap();
        store.put_if("a", b"3".to_vec(), Expect::Present).await.unwrap();
        store.lease_keep_alive(lease).await.unwrap();
    });
}
