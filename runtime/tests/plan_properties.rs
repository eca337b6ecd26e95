//! What holds for every decision, whatever is asked, allowed and possible.

#[cfg(test)]
mod properties {
    use std::collections::BTreeMap;
    use std::path::{Path, PathBuf};
    use std::sync::LazyLock;
    use std::time::Duration;

    use proptest::option;
    use proptest::prelude::*;
    use proptest::sample::select;
    use proptest::strategy::ValueTree;

    use ric_images::{Config, Digest, Identity, Manifest, Reference};
    use ric_policies::{Access, Bound, Draft, EngineName, Network, Policy, Protection, Ruled};
    use ric_runtime::{
        Caller, CgroupHost, CgroupVersion, Controller, ControllerPlace, DockerHost, Fresh, Host,
        InputAsk, LimitWishes, MountAsk, MountKind, OutputAsk, PathFacts, PathKind, Plan, Probe,
        Sandbox, SubordinateIds, Task, UserChoice, WorkAsk, admit, plan,
    };

    /// What a site's file may say, from the built-in default to the odd.
    const POLICIES: [&str; 10] = [
        "",
        "images: {allow: [\"host:\", \"docker://r.example/*\"], deny: [\"docker://r.example/x*\"]}",
        "registries: {short_names: [r.example, s.example]}\nengines: [apptainer, native]",
        "engines: [docker]",
        "mounts: [{source: /scratch, access: read-write}, {source: /data, access: read-only}]",
        "mounts: [{source: /, access: read-write}]\nnetwork: [loopback, host]",
        "run_as: image\nroot_runs_as: 1234\nhost_paths: [/apps, /usr/local]",
        "limits: {memory: {default: 64MiB, most: 1GiB}, pids: {most: 32}, time: {most: 1h}}",
        "limits: {cpus: {default: 2, most: 4}, time: {default: 1m}}\nrequire: [seccomp, pids]",
        "mounts: [{source: /scratch, access: read-only}]\nnetwork: [host]\nrun_as: image\n\
         limits: {cpus: {default: 2}}\nrequire: [memory, pids, devices]",
    ];

    fn policies() -> impl Strategy<Value = Policy> {
        static ALL: LazyLock<Vec<Policy>> = LazyLock::new(|| {
            let parsed = POLICIES.map(|text| {
                let text = format!("version: 1\nname: site\n{text}\n");
                Policy::of_site(&Draft::parse(Path::new("site.yaml"), &text).unwrap())
            });
            parsed.to_vec()
        });
        select(ALL.as_slice())
    }

    /// Mostly `usual`, so that tasks get far; else any text.
    fn text(usual: &'static [&'static str]) -> impl Strategy<Value = String> {
        prop_oneof![30 => select(usual).prop_map(str::to_owned), 1 => any::<String>()]
    }

    fn probe() -> impl Strategy<Value = Probe> {
        prop::bool::weighted(0.93).prop_map(|works| Probe { works, detail: "tried".to_owned() })
    }

    fn cgroups() -> impl Strategy<Value = CgroupHost> {
        let usable = prop::collection::btree_map(
            select(vec![
                Controller::Memory,
                Controller::Cpu,
                Controller::Pids,
                Controller::Devices,
            ]),
            Just(()),
            0..5,
        );
        let around = prop::collection::btree_map(
            select(vec![Controller::Memory, Controller::Pids]),
            prop_oneof![1_u64..1 << 40, 1_u64..100],
            0..2,
        );
        (any::<bool>(), usable, around).prop_map(|(unified, usable, ambient)| {
            let place = ControllerPlace { unified, parent: PathBuf::from("/sys/fs/cgroup/job") };
            CgroupHost {
                version: if unified { CgroupVersion::V2 } else { CgroupVersion::V1 },
                controllers: usable.into_keys().map(|c| (c, place.clone())).collect(),
                unusable: BTreeMap::new(),
                ambient,
                mounts: vec![PathBuf::from("/sys/fs/cgroup"), PathBuf::from("/cgroup/cpu")],
            }
        })
    }

    /// Daemons of every kind, most of them fit for something.
    fn dockers() -> impl Strategy<Value = DockerHost> {
        let all = proptest::sample::subsequence(Controller::ALL.to_vec(), 0..=4);
        let own = proptest::sample::subsequence(vec!["/", "/job", "/job/7", "/other"], 0..=4);
        (any::<[bool; 4]>(), all, own).prop_map(|([fails, unified, rootless, maps], all, own)| {
            let own = Controller::ALL.into_iter().zip(own.into_iter().map(PathBuf::from));
            DockerHost {
                socket: PathBuf::from("/var/run/docker.sock"),
                answer: Probe { works: !(fails && unified), detail: "20.10".to_owned() },
                driver: if fails { "systemd" } else { "cgroupfs" }.to_owned(),
                unified,
                rootless: rootless && fails,
                maps_ids: maps && fails,
                controllers: all,
                own_cgroups: own.collect(),
            }
        })
    }

    fn hosts() -> impl Strategy<Value = Host> {
        let ids = option::of((1_u32..1 << 20, 1_u32..70000, any::<bool>()));
        let numbers = (0_u64..1 << 20, prop_oneof![Just(4096_u64), Just(65536)]);
        let probes = (probe(), probe(), probe(), probe());
        (probes, ids, cgroups(), numbers, option::of(dockers())).prop_map(
            |(probes, ids, cgroup, (nofile, page_bytes), docker)| {
                let (privileged, user_namespace, overlay, seccomp) = probes;
                let path = |helper| PathBuf::from(if helper { "/usr/bin/newuidmap" } else { "" });
                Host {
                    kernel: "6.1".to_owned(),
                    architecture: "amd64".to_owned(),
                    privileged: privileged.clone(),
                    user_namespace,
                    overlay,
                    squashfs: privileged.works.then(|| seccomp.clone()),
                    seccomp,
                    subordinate_ids: ids.map(|(first, count, helper)| SubordinateIds {
                        newuidmap: path(helper),
                        newgidmap: path(helper),
                        uids: (first, count),
                        gids: (first, count),
                    }),
                    cgroup,
                    rlimits_hard: BTreeMap::from([("NOFILE".to_owned(), nofile)]),
                    page_bytes,
                    memory_bytes: 16 << 30,
                    root_links: BTreeMap::new(),
                    host_shown: vec![PathBuf::from("/usr")],
                    host_copied: vec![PathBuf::from("/etc/os-release")],
                    host_paths: vec![PathBuf::from("/apps")],
                    host_fingerprint: "f".to_owned(),
                    pythons: vec![PathBuf::from("/usr/bin/python3")],
                    own_paths: vec![PathBuf::from("/scratch/store")],
                    docker,
                }
            },
        )
    }

    fn callers() -> impl Strategy<Value = Caller> {
        let id = || prop_oneof![Just(0_u32), Just(1001), any::<u32>()];
        let name = option::of(text(&["ada", "root"]));
        (id(), id(), prop::collection::vec(id(), 0..4), name)
            .prop_map(|(uid, gid, groups, name)| Caller { uid, gid, groups, name })
    }

    /// Mostly a good path; else one that something is wrong with, or any text.
    fn paths(good: &'static [&'static str]) -> impl Strategy<Value = PathBuf> {
        let near = [
            "/",
            "/scratch/store",
            "/scratch/store/x",
            "/scratch2",
            "/data/../etc",
            "/proc/self",
            "/sys",
            "/dev/shm",
            "/cgroup",
            "/etc",
            "/etc/passwd",
            "/task",
            "/task/in/x",
            "/run-in-container",
            "relative",
            "",
        ];
        prop_oneof![
            20 => select(good).prop_map(PathBuf::from),
            2 => select(near.to_vec()).prop_map(PathBuf::from),
            1 => any::<PathBuf>(),
        ]
    }

    fn facts() -> impl Strategy<Value = PathFacts> {
        use PathKind::{Directory, File, Special};
        let good = &["/scratch", "/scratch/a", "/data/d"];
        (paths(good), select(vec![Directory, File, File, File, File, Special])).prop_map(
            |(real, kind)| PathFacts { asked: real.clone(), real, device: 1, inode: 2, kind },
        )
    }

    fn mounts() -> impl Strategy<Value = Vec<MountAsk>> {
        let access = option::of(select(vec![Access::ReadOnly, Access::ReadWrite]));
        let targets = &["/mnt", "/mnt/a", "//mnt//b/", "/opt/x", "/task/x"];
        let one = (facts(), 0_usize..9, paths(targets), access);
        let one = one.prop_map(|(source, descriptor, target, access)| MountAsk {
            source,
            descriptor,
            target,
            access,
        });
        prop_oneof![2 => Just(Vec::new()), 1 => prop::collection::vec(one, 0..3)]
    }

    fn wishes() -> impl Strategy<Value = LimitWishes> {
        let number =
            |usual| option::weighted(0.2, prop_oneof![1 => any::<u64>(), 6 => 10_u64..usual]);
        (number(1 << 31), number(5000), number(300), number(1 << 22)).prop_map(
            |(memory_bytes, cpus_milli, pids, time)| LimitWishes {
                memory_bytes,
                cpus_milli,
                pids,
                time: time.map(Duration::from_millis),
            },
        )
    }

    fn images() -> impl Strategy<Value = Reference> {
        let known =
            ["host:", "docker://r.example/a:1", "docker://r.example/xy:1", "python", "dir:/a"];
        let odd = any::<PathBuf>().prop_map(Reference::Dir);
        let known = select(known.to_vec()).prop_map(|text| text.parse().unwrap());
        prop_oneof![20 => Just(Reference::Host), 20 => known, 1 => odd]
    }

    fn tasks() -> impl Strategy<Value = Task> {
        let files = (
            prop::collection::vec((facts(), text(&["in"])), 0..2),
            prop::collection::vec(text(&["out"]), 0..2),
        );
        let words = (
            prop::collection::vec(text(&["/bin/true", "x"]), 0..3),
            prop::collection::btree_map(text(&["A", "PATH"]), text(&["a", ""]), 0..3),
            option::weighted(0.1, text(&["lab-1"])),
            option::weighted(0.2, paths(&["/task/w", "/srv"])),
        );
        let choices = (
            option::weighted(0.1, select(vec![EngineName::Native, EngineName::Docker])),
            option::weighted(0.2, select(vec![Network::Loopback, Network::Host])),
            option::weighted(
                0.4,
                select(vec![UserChoice::Caller, UserChoice::Image, UserChoice::Root]),
            ),
            any::<bool>(),
        );
        (callers(), images(), mounts(), wishes(), files, words, choices).prop_map(
            |(caller, image, mounts, limits, files, words, choices)| {
                let (command, variables, tenant, workdir) = words;
                let (engine, network, user, terminal) = choices;
                let input = |(source, name)| InputAsk { source, descriptor: 0, name };
                let output = |name| OutputAsk { name, target: PathBuf::new() };
                Task {
                    caller,
                    image,
                    work: WorkAsk::Command(command),
                    engine,
                    mounts,
                    limits,
                    network,
                    user,
                    workdir,
                    path_first: Vec::new(),
                    variables,
                    inputs: files.0.into_iter().map(input).collect(),
                    secrets: Vec::new(),
                    outputs: files.1.into_iter().map(output).collect(),
                    fresh: Fresh::Container,
                    tenant,
                    terminal,
                }
            },
        )
    }

    /// What an image may say about itself; its maker is not trusted.
    fn manifests() -> impl Strategy<Value = Manifest> {
        let user = text(&["0", "0:0", "5", "5:0", "1000:100", "node", "4294967296"]);
        let references = ["host:", "host:", "docker://r.example/a:1", "docker://r.example/xy:1"];
        let variables = prop::collection::vec((text(&["B", "HOME"]), text(&["b"])), 0..3);
        let workdir = text(&["", "/srv", "/proc/1/cwd"]);
        (select(references.to_vec()), option::of(user), option::weighted(0.2, workdir), variables)
            .prop_map(|(reference, user, workdir, variables)| Manifest {
                identity: match reference {
                    "host:" => Identity::Fingerprint("f".to_owned()),
                    named => Identity::Digest(Digest::of(named.as_bytes())),
                },
                reference: reference.to_owned(),
                config: Config {
                    user,
                    workdir,
                    variables,
                    command: vec!["/bin/true".to_owned()],
                    ..Config::default()
                },
                layers: Vec::new(),
                of_root: false,
            })
    }

    /// The limit is within the most, or the machine holds less, or nobody but we wanted it.
    fn within(
        limit: Option<u64>,
        bound: &Bound<u64>,
        protection: Protection,
        sandbox: &Sandbox,
    ) -> bool {
        let most = bound.most.as_ref().map(|most| most.value);
        let by_job = sandbox.enforced.get(&protection).is_some_and(|how| how.starts_with("around"));
        let may_drop = bound.demanded_by().is_none() && sandbox.dropped.contains_key(&protection);
        match (limit, most) {
            (Some(limit), Some(most)) => limit <= most,
            (None, Some(_)) => by_job || may_drop,
            (Some(_), None) => true,
            (None, None) => bound.default.is_none() || by_job || may_drop,
        }
    }

    fn mount_is_allowed(kind: &MountKind, target: &Path, policy: &Policy) -> bool {
        let MountKind::Caller { source, access, .. } = kind else { return true };
        let trees = ["/proc", "/sys", "/dev", "/run-in-container"];
        let off_limits = |path: &Path| trees.iter().any(|tree| path.starts_with(tree));
        let covers = |rule: &Ruled<ric_policies::MountRule>| {
            source.starts_with(&rule.value.source) && *access <= rule.value.access
        };
        policy.mounts.iter().any(covers)
            && !off_limits(source)
            && !off_limits(target)
            && !source.starts_with("/scratch/store")
            && target != Path::new("/")
            && !target.components().any(|part| part.as_os_str() == "..")
    }

    /// Ids outside that the task's ids are.
    fn outside(sandbox: &Sandbox) -> (Vec<(u32, u32)>, u32, u32) {
        let ids = &sandbox.identities;
        let Some(map) = &ids.user_namespace else { return (Vec::new(), ids.uid, ids.gid) };
        let find = |lines: &[(u32, u32, u32)], id: u32| {
            let line = lines.iter().find(|(inside, _, n)| id >= *inside && id - inside < *n);
            line.map(|(inside, outside, _)| outside + (id - inside)).unwrap()
        };
        let ranges = map.uids.iter().map(|(_, outside, count)| (*outside, *count)).collect();
        (ranges, find(&map.uids, ids.uid), find(&map.gids, ids.gid))
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

        #[test]
        fn sandbox_never_exceeds_its_policy(
            task in tasks(), manifest in manifests(), policy in policies(), host in hosts(),
        ) {
            if let Ok(Plan { sandbox, work }) = plan(&task, &manifest, &policy, &host) {
                let limits = sandbox.limits;
                let rules = &policy.limits;
                let bounds = [
                    (limits.memory_bytes, &rules.memory_bytes, Protection::Memory),
                    (limits.cpus_milli, &rules.cpus_milli, Protection::Cpus),
                    (limits.pids, &rules.pids, Protection::Pids),
                ];
                for (limit, bound, protection) in bounds {
                    prop_assert!(within(limit, bound, protection, &sandbox), "{protection:?}");
                }
                if let Some(most) = &rules.time.most {
                    prop_assert!(work.deadline.is_some_and(|time| time <= most.value));
                }
                prop_assert!(policy.engines.value.contains(&sandbox.engine));
                prop_assert!(
                    sandbox.network == Network::Loopback
                        || policy.network.value.contains(&sandbox.network)
                );
                prop_assert!(policy.image_verdict(&manifest.reference).is_ok());
                for mount in &sandbox.mounts {
                    let allowed = mount_is_allowed(&mount.kind, &mount.target, &policy);
                    prop_assert!(allowed, "{mount:?}");
                }
                for rule in &policy.require {
                    prop_assert!(sandbox.enforced.contains_key(&rule.value), "{:?}", rule.value);
                }
                for (name, (soft, hard)) in &sandbox.rlimits {
                    prop_assert!(soft <= hard);
                    prop_assert!(host.rlimits_hard.get(name).is_none_or(|most| hard <= most));
                }
            }
        }

        #[test]
        fn what_is_asked_is_enforced_or_refused(
            task in tasks(), manifest in manifests(), policy in policies(), host in hosts(),
        ) {
            if let Ok(Plan { sandbox, work }) = plan(&task, &manifest, &policy, &host) {
                let asked = [
                    (task.limits.memory_bytes, Protection::Memory),
                    (task.limits.cpus_milli, Protection::Cpus),
                    (task.limits.pids, Protection::Pids),
                ];
                for (asked, protection) in asked {
                    prop_assert!(asked.is_none() || sandbox.enforced.contains_key(&protection));
                }
                prop_assert!(task.network.is_none_or(|network| network == sandbox.network));
                prop_assert!(task.limits.time.is_none_or(|time| work.deadline == Some(time)));
                prop_assert_eq!(task.mounts.len(), sandbox.mounts.len() - 11);
                let both = sandbox.enforced.keys().any(|key| sandbox.dropped.contains_key(key));
                prop_assert!(!both);
            }
        }

        #[test]
        fn task_is_never_root_of_the_machine(
            task in tasks(), manifest in manifests(), policy in policies(), host in hosts(),
        ) {
            if let Ok(Plan { sandbox, .. }) = plan(&task, &manifest, &policy, &host) {
                let (ranges, uid, gid) = outside(&sandbox);
                let root_is_mapped = ranges.iter().any(|(first, _)| *first == 0);
                prop_assert!(uid != 0 && !root_is_mapped, "{sandbox:?}");
                let own_group = task.caller.uid != 0 && task.caller.gid == 0;
                prop_assert!(gid != 0 || own_group, "{:?}", sandbox.identities);
                if let Some(groups) = &sandbox.identities.groups {
                    prop_assert!(groups.contains(&sandbox.identities.gid));
                }
                let has_namespace = sandbox.identities.user_namespace.is_some();
                if sandbox.engine == EngineName::Docker {
                    prop_assert!(!has_namespace, "{:?}", sandbox.identities);
                    prop_assert!(host.docker.is_some_and(|docker| docker.answer.works));
                } else {
                    prop_assert!(host.privileged.works || has_namespace);
                }
            }
        }

        #[test]
        fn decision_depends_on_nothing_else(
            task in tasks(), manifest in manifests(), policy in policies(), host in hosts(),
        ) {
            let first = plan(&task, &manifest, &policy, &host);
            prop_assert_eq!(&first, &plan(&task, &manifest, &policy, &host));
            let mut shuffled = task;
            shuffled.caller.groups.reverse();
            prop_assert_eq!(first, plan(&shuffled, &manifest, &policy, &host));
        }

        #[test]
        fn refusal_is_one_printable_line_with_a_hint(
            task in tasks(), manifest in manifests(), policy in policies(), host in hosts(),
        ) {
            let refusals = [
                admit(&task, &policy).err(),
                plan(&task, &manifest, &policy, &host).err(),
            ];
            for refusal in refusals.into_iter().flatten() {
                for text in [refusal.to_string(), refusal.hint()] {
                    let printable = !text.is_empty() && !text.chars().any(char::is_control);
                    prop_assert!(printable, "{text:?}");
                    prop_assert!(text.len() < 4000);
                }
            }
        }

        #[test]
        fn only_admitted_references_are_looked_up(task in tasks(), policy in policies()) {
            if let Ok(admitted) = admit(&task, &policy) {
                prop_assert!(!admitted.references.is_empty());
                for reference in admitted.references {
                    prop_assert!(policy.image_verdict(&reference.to_string()).is_ok());
                    let short = matches!(reference, Reference::ShortName { .. });
                    prop_assert!(!short);
                }
            }
        }
    }

    /// The properties above say nothing if every random task is refused.
    #[test]
    fn random_tasks_are_decided_both_ways() {
        let all = (tasks(), manifests(), policies(), hosts());
        let mut runner = proptest::test_runner::TestRunner::deterministic();
        let decided = (0..500).filter(|_| {
            let (task, manifest, policy, host) = all.new_tree(&mut runner).unwrap().current();
            plan(&task, &manifest, &policy, &host).is_ok()
        });
        let count = decided.count();
        assert!(count > 50 && count < 450, "{count}");
    }
}
