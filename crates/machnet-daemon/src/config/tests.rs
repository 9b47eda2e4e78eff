use super::*;

const LEAST: &str = "driver.url = \"udp://127.0.0.1\"\nsocket.path = \"/tmp/x.sock\"\n[[allow]]\n";

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(Path::new("m.toml"), text)
}

#[test]
fn the_example_says_what_is_the_default() {
    let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/machnet.toml"));
    let config = Config::load(path).unwrap();
    let example = std::fs::read_to_string(path).unwrap();
    // What is commented out, put in: nothing changes, but for who and where.
    let uncommented: String = example
        .lines()
        .map(|line| match line.strip_prefix("# ") {
            Some(rest) if rest.split_once(" = ").is_some_and(|(key, _)| !key.contains(' ')) => rest,
            _ => line,
        })
        .filter(|line| {
            !["user", "group", "core", "nice", "congestion", "per_user"].iter().any(|key| line.starts_with(key))
        })
        .flat_map(|line| [line, "\n"])
        .collect();
    assert!(uncommented.contains("\nmode = \"0660\""), "{uncommented}");
    assert_eq!(parse(&uncommented).unwrap(), config);
    assert_eq!(config.settings.allow[0], Allowance { name: "anybody".to_owned(), ..Allowance::everybody() });
    assert_eq!(config.settings.engine, machnet_core::Config::default());
    let least = parse(LEAST).unwrap().settings;
    assert_eq!((least.mode, least.applications, least.memory), (0o660, 64, 4 << 30));
    assert_eq!(least.allow[0].quota.ports, Ports::default(), "no port is allowed that is not named");
}

#[test]
fn everything_that_may_be_said_is_heard() {
    let text = r#"
        [driver]
        url = "shm://lab"
        [socket]
        path = "/run/m.sock"
        mode = "0600"
        group = 7
        [engine]
        core = 1
        nice = -10
        idle = "50us"
        max_message = "1MiB"
        receive_window = "512KiB"
        congestion = "swift"
        linger = "3s"
        [limits]
        applications = 3
        memory = "1GiB"
        attach_rate = 7
        penance = "1s"
        drain = "1s"
        [[allow]]
        name = "web"
        user = 1000
        ports = [80, "9000-9099", "0"]
        flows = 100
        listeners = 0
        memory = "64MiB"
        pipe = "256KiB"
        pieces = 512
        piece = 9000
        [[allow]]
        user = "root"
    "#;
    let Config { driver, settings } = parse(text).unwrap();
    assert_eq!(driver, DriverUrl::Shm("lab".to_owned()));
    assert_eq!((settings.mode, settings.group, &settings.cores[..]), (0o600, Some(7), &[1][..]));
    assert_eq!(settings.idle, IdlePolicy::YieldThenPark { yield_for: Duration::from_micros(50) });
    assert_eq!((settings.nice, settings.attach_rate, settings.penance), (Some(-10), 7, Duration::from_secs(1)));
    assert_eq!((settings.engine.max_message, settings.engine.linger), (1 << 20, Duration::from_secs(3)));
    let web = &settings.allow[0];
    assert_eq!((web.user, web.quota.flows, web.geometry.flows), (Some(1000), 100, 128));
    assert_eq!((web.quota.listeners, web.geometry.listeners), (0, 1));
    assert_eq!((web.geometry.data, web.geometry.descriptors, web.geometry.max_piece), (256 << 10, 512, 9000));
    for (port, may) in [(80, true), (81, false), (9000, true), (9099, true), (9100, false), (0, true)] {
        assert_eq!(web.quota.ports.contains(port), may, "{port}");
    }
    assert_eq!(settings.allow[1].user, Some(0));
    let several = format!("{LEAST}\n[engine]\nengines = 4\ncores = [3, 1, 2, 7]");
    let settings = parse(&several).unwrap().settings;
    assert_eq!((settings.engines, &settings.cores[..]), (4, &[3, 1, 2, 7][..]));
}

/// As many flows as their windows fit the memory; the last of these is refused.
#[test]
fn what_is_received_fits_the_memory() {
    for (flows, window, memory, fits) in
        [(128, 2 << 20, 256_u64 << 20, true), (129, 2 << 20, 256 << 20, false), (128, 2 << 20, (256 << 20) - 1, false)]
    {
        let mut allowance = Allowance::everybody();
        (allowance.quota.flows, allowance.quota.memory) = (flows, memory);
        assert_eq!(allowance.check(window).is_ok(), fits, "{flows} {window} {memory}");
    }
}

/// What is wrong, the line it is in, and a part of what is said of it.
#[test]
fn each_mistake_is_named_with_its_line() {
    for (text, line, part) in [
        ("x = 1", 1, "unknown key \"x\"; known here are driver, engine, socket, limits, allow"),
        ("engine.nice = -21", 1, "wanted is a whole number from -20, which is served first, to 19"),
        ("driver = 1", 1, "driver is integer; wanted is a table, [driver]"),
        ("[driver]\nurl = \"tcp://1\"", 2, "driver.url = \"tcp://1\": unknown scheme \"tcp\""),
        ("[driver]\nurl = \"udp://host\"", 2, "\"host\" is no IP address"),
        ("[driver]\nurl = \"shm://\"", 2, "the name is missing"),
        ("[driver]\nurl = \"shm://a/b\"", 2, "it must be 1 to 64 letters"),
        ("[driver]\nurl = \"unix:///x\"", 2, "not another daemon"),
        ("[socket]\npath = \"x.sock\"", 2, "wanted is an absolute path"),
        ("[socket]\nmode = \"0999\"", 2, "\"0660\", in quotes"),
        ("[socket]\nmode = 660", 2, "\"0660\", in quotes"),
        ("[socket]\ngroup = \"no-such-group\"", 2, "there is no group of that name"),
        ("[engine]\n\nidle = \"nap\"", 3, "engine.idle = \"nap\": wanted is \"yield\", \"spin\", \"park\""),
        ("[engine]\nmax_message = \"65MiB\"", 2, "from 1B to 64MiB"),
        ("[engine]\nlinger = 3", 2, "wanted is a time such as \"3s\""),
        // What no engine starts with, and what would end in a billion years.
        ("[engine]\ndead_peer_timeout = \"9ms\"", 2, "from 10ms to 86400s"),
        ("[engine]\nmax_ack_delay = \"2s\"", 2, "from 0ns to 1s"),
        ("[engine]\nconnect_timeout = \"0s\"", 2, "from 1ms to 86400s"),
        ("[limits]\ndrain = \"18446744073709551615s\"", 2, "from 0ns to 86400s"),
        ("[limits]\npenance = \"86401s\"", 2, "from 0ns to 86400s"),
        ("[engine]\nengines = 0", 2, "engine.engines = 0: wanted is a whole number from 1 to 64"),
        ("[engine]\nengines = 65", 2, "from 1 to 64"),
        ("[engine]\nengines = \"2\"", 2, "from 1 to 64"),
        (
            "[driver]\nurl = \"shm://lab\"\n[engine]\nengines = 2",
            4,
            "engine.engines = 2: shm:// serves one engine: wanted is 1, or a driver of several queues",
        ),
        ("[engine]\nengines = 2\ncore = 1", 3, "engine.core = 1: there are 2 engines: wanted is engine.cores"),
        ("[engine]\nengines = 2\ncores = [1]", 3, "wanted is a list of 2 different cores from 0 to 1023"),
        ("[engine]\nengines = 2\ncores = [1, 1]", 3, "wanted is a list of 2 different cores"),
        ("[engine]\ncores = [\"1\"]", 2, "wanted is a list of 1 different cores"),
        ("[engine]\ncores = 1", 2, "wanted is a list of 1 different cores"),
        (
            "[engine]\nengines = 64\n[limits]\nmemory = \"300MiB\"\n[[allow]]",
            5,
            "everybody: one application takes up to",
        ),
        ("[engine]\nspeed = 3", 2, "unknown key \"engine.speed\"; known here are engines, core, cores, nice, idle"),
        ("[limits]\napplications = 0", 2, "from 1 to 1024"),
        ("[limits]\nmemory = \"1TB\"", 2, "\"64KiB\", from 1MiB to"),
        ("[[allow]]\napplications = 4\nper_user = 5", 3, "allow.per_user = 5: wanted is a whole number from 1 to 4"),
        ("[[allow]]\nports = 80", 2, "wanted is a list such as [7000, \"9000-9099\"]"),
        ("[[allow]]\nports = [\"9-1\"]", 2, "\"9-1\": wanted is a list"),
        ("[[allow]]\nports = [70000]", 2, "wanted is a list"),
        ("[[allow]]\nuser = \"no-such-user\"", 2, "there is no user of that name"),
        ("[[allow]]\nflows = 16385", 2, "from 1 to 16384"),
        ("[[allow]]\npipe = 9000", 1, "in steps of 4096"),
        ("[[allow]]\nmemory = \"5GiB\"", 1, "and limits.memory is 4GiB"),
        (
            "[[allow]]\nflows = 129",
            1,
            "take up to 258MiB, and memory is 256MiB; wanted is flows = 128 at most, memory = \"258MiB\" at least, or engine.receive_window = \"2032KiB\" at most",
        ),
        ("[engine]\nreceive_window = \"4MiB\"\n[[allow]]", 3, "wanted is flows = 64 at most"),
        ("[[allow]]\nnice = 1", 2, "unknown key \"allow.nice\""),
        ("[allow]\nname = \"x\"", 1, "wanted are tables, [[allow]]"),
        ("[driver\nurl = 1", 1, ""),
        ("a = 1\na = 2", 2, "duplicate"),
    ] {
        let error = parse(text).unwrap_err();
        let found = error.mistakes.iter().find(|mistake| mistake.line == line && mistake.reason.contains(part));
        assert!(found.is_some(), "{text}:\n{error}");
        assert!(error.to_string().contains(&format!("m.toml: line {line}: ")), "{error}");
    }
}

#[test]
fn no_mistake_hides_another_and_what_is_missing_is_named() {
    let text =
        "[driver]\nurl = 3\n[socket]\nmode = 1\n[engine]\nidle = 1\ncore = -1\n[[allow]]\nflows = 0\nbogus = 1\n";
    let lines: Vec<usize> = parse(text).unwrap_err().mistakes.iter().map(|mistake| mistake.line).collect();
    assert_eq!(lines, [2, 3, 4, 6, 7, 9, 10]);
    let reasons = parse("").unwrap_err().to_string();
    for part in ["driver.url is missing", "socket.path is missing", "wanted is at least one [[allow]]"] {
        assert!(reasons.contains(part), "{reasons}");
    }
    let error = Config::load(Path::new("/no/such/file")).unwrap_err();
    assert!(error.to_string().starts_with("/no/such/file: cannot read it: No such file"), "{error}");
}

proptest::proptest! {
    #[test]
    fn any_text_is_read(text in "(\\[{1,2}(driver|socket|allow|engine|limits)\\]{1,2}\n|[a-z]{1,6} = (1|\"[a-z0-9]{0,4}\"|\\[.{0,3}\\])\n|.{0,20}\n){0,12}") {
        if let Err(error) = parse(&text) {
            proptest::prop_assert!(!error.mistakes.is_empty());
        }
    }
}
