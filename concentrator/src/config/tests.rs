use super::*;

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(text, Path::new("test.toml"))
}

#[test]
fn an_empty_file_is_the_defaults_and_the_defaults_are_valid() {
    assert_eq!(parse("").unwrap(), Config::default());
    assert_eq!(Config::default().problems(), Vec::<String>::new());
}

#[test]
fn the_defaults_survive_a_round_trip_as_text() {
    let text = toml::to_string(&Config::default()).unwrap();
    assert_eq!(parse(&text).unwrap(), Config::default());
}

#[test]
fn unknown_fields_are_refused_at_every_level() {
    for text in [
        "colour = 1",
        "[listen]\naddress = []",
        "[dataplane]\nxdp = true",
        "[threads]\nworker = 1",
        "[limits]\nhalfopen = 1",
        "[seal]\nkey = \"x\"",
        "[api]\npath = \"x\"",
        "[telemetry]\notlp = \"x\"",
        "[log]\nlevel = \"info\"",
        "[shutdown]\nseconds = 1",
        "[debug]\nkeylog = \"x\"",
        "[api.tcp]\nlisten = \"127.0.0.1:1\"\ncertificate = \"c\"\nkey = \"k\"\nclient_authorities = \"a\"\nroles = 1",
    ] {
        let error = parse(text).expect_err(text).to_string();
        assert!(error.contains("unknown field"), "{text}: {error}");
    }
}

#[test]
fn every_value_outside_its_limit_is_named() {
    let error = parse(
        "[threads]\nworkers = 9\ncontrol = 0\npin_workers = true\ncores = [1, 5000]\nbusy_wait_micros = 2000\n[limits]\nmailbox = 2\n[telemetry]\ntrace_ratio = 1.5\notlp_endpoint = \"x\"",
    )
    .expect_err("limits")
    .to_string();
    for name in [
        "threads.workers is 9, it must be 1 to 8",
        "threads.control",
        "threads.cores (how many) is 2",
        "threads.cores (the largest) is 5000",
        "threads.busy_wait_micros",
        "limits.mailbox",
        "telemetry.trace_ratio",
        "telemetry.otlp_endpoint",
    ] {
        assert!(error.contains(name), "{name} missing in {error}");
    }
}

#[test]
fn af_xdp_is_off_unless_it_is_asked_for() {
    assert_eq!(parse("").unwrap().dataplane.outer, OuterMode::Socket);
    let config = parse("[dataplane]\nouter = \"xdp\"\ninterfaces = [\"eth0\"]").unwrap();
    let outer = ::dataplane::Outer::from(&config.dataplane);
    assert_eq!(outer.mode, ::dataplane::OuterMode::Xdp);
    assert_eq!(outer.interfaces, ["eth0"]);
    let auto = parse("[dataplane]\nouter = \"auto\"").unwrap();
    assert_eq!(
        ::dataplane::Outer::from(&auto.dataplane).mode,
        ::dataplane::OuterMode::Auto
    );
    assert!(parse("[dataplane]\nouter = \"dpdk\"").is_err());
    let many = format!("[dataplane]\ninterfaces = {:?}", vec!["eth0"; INTERFACES_MAX + 1]);
    let error = parse(&many).expect_err("too many").to_string();
    assert!(error.contains("dataplane.interfaces"), "{error}");
}

#[test]
fn debug_settings_are_off_by_default() {
    let config = parse("").unwrap();
    assert_eq!(
        config.debug,
        Debug {
            key_log: None,
            fault_injection: false
        }
    );
    assert!(config.log.redact);
}

#[test]
fn addresses_are_unique_and_present() {
    assert!(parse("[listen]\naddresses = []").is_err());
    assert!(parse("[listen]\naddresses = [\"192.0.2.1\", \"192.0.2.1\"]").is_err());
    let config = parse("[listen]\naddresses = [\"192.0.2.1\", \"2001:db8::1\"]").unwrap();
    assert_eq!(config.listen.addresses.len(), 2);
}

#[test]
fn a_node_that_cannot_be_managed_is_refused() {
    assert!(parse("[api]\nsocket = \"\"").is_err());
}

#[test]
fn a_cluster_brings_its_own_addresses() {
    let cluster = "[cluster]\netcd = [\"http://10.98.0.11:2379\"]\nlisten = [\"10.98.0.1:4600\"]\n[[cluster.slots]]\nid = 0\naddresses = [\"192.0.2.100/24@eth0\"]";
    let config = parse(&format!("node_name = \"a\"\n{cluster}")).unwrap();
    assert_eq!(
        config.listen_addresses(),
        vec!["192.0.2.100".parse::<IpAddr>().unwrap()]
    );
    let error = parse(&format!(
        "node_name = \"a\"\n[listen]\naddresses = [\"192.0.2.1\"]\n{cluster}"
    ))
    .expect_err("both")
    .to_string();
    assert!(error.contains("listen.addresses must be left out"), "{error}");
    assert!(!toml::to_string(&Config::default()).unwrap().contains("cluster"));
}
