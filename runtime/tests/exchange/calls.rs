//! What calls give back: results, exceptions, refusals.

use std::collections::BTreeMap;

use ric_runtime::{Answer, Arguments, Preload, Reason};
use serde_json::{Value, json};

use crate::ends::{Worker, answer, call, call_with, declined, pickled, raised};

#[test]
fn call_returns_what_the_function_returns() {
    let mut worker = Worker::start();
    let source = "def greet(name, *, loud=False):\n    return name.upper() if loud else name\n";
    let named = BTreeMap::from([("loud".to_owned(), json!(true))]);
    let arguments = Arguments::Json { positional: vec![json!("wörld")], named };
    let answer = worker.call(&call_with(source, "greet", arguments)).unwrap();
    assert_eq!(answer, Answer::Json("\"WÖRLD\"".to_owned()));
    assert!(worker.exchange().interpreter().unwrap().python.starts_with("3."));
    let digests = worker.exchange().digests().clone();
    assert_eq!(
        digests.arguments_sha256.unwrap(),
        // sha256sum of {"positional":["wörld"],"named":{"loud":true}}
        "c2e0efa23d8c79b34b59baa741f797272fd766e805314a4641d788c3274ab2a6"
    );
    assert!(digests.function_sha256.is_some() && digests.result_sha256.is_some());
}

#[test]
fn warm_worker_serves_many_calls_and_runs_each_file_once() {
    let mut worker = Worker::start();
    let source =
        "import os\nloads = [os.getpid()]\ndef f():\n    loads.append(0)\n    return loads\n";
    let first = worker.value(source, "f");
    for calls in 2..=300 {
        let value = worker.value(source, "f");
        assert_eq!(value.as_array().unwrap().len(), calls + 1);
        assert_eq!(value[0], first[0]);
    }
}

/// More files than a worker keeps: it asks for those it has forgotten, and gets them.
#[test]
fn worker_asks_for_functions_that_it_forgot() {
    let mut worker = Worker::start();
    let source = |number: usize| format!("def f():\n    return {number}\n");
    // The owner sends 1 again when it counts anew after 256 files, and believes it to be kept;
    // to the worker it is the oldest of all, and 257 takes its place.
    for number in (0..=256).chain([1, 257, 1]) {
        assert_eq!(worker.value(&source(number), "f"), json!(number));
    }
}

#[test]
fn large_payloads_travel_both_ways() {
    let mut worker = Worker::start();
    for size in [(1 << 20) - 200, (1 << 20) + 1, 10 << 20] {
        let argument = "x".repeat(size);
        let echo = call("def echo(x):\n    return x\n", "echo", &[json!(argument)]);
        let answer = worker.call(&echo).unwrap();
        assert_eq!(answer, Answer::Json(format!("\"{argument}\"")));
    }
}

#[test]
fn floats_and_integers_keep_every_digit() {
    let source = "def f():\n    return [0.1 + 0.2, 31.245270191439438, 5e-324, \
                  1.7976931348623157e308, -(1 << 63), (1 << 64) - 1, 9007199254740993]\n";
    let value = Worker::start().value(source, "f");
    let digits = "[0.30000000000000004,31.245270191439438,5e-324,1.7976931348623157e+308,\
                  -9223372036854775808,18446744073709551615,9007199254740993]";
    assert_eq!(value.to_string(), digits);
}

#[test]
fn caller_that_takes_json_gets_tuples_as_lists_and_no_silent_surprise() {
    let source = "import enum\nclass Color(enum.IntEnum):\n    RED = 1\n\
                  def tuples():\n    return 1, (2, Color.RED)\n\
                  def nan():\n    return [float('nan')]\n\
                  def keys():\n    return {1: 2}\n\
                  def big():\n    return 1 << 64\n\
                  def surrogate():\n    return '\\ud800'\n\
                  def generator():\n    yield 1\n\
                  def thing():\n    return object()\n";
    assert_eq!(Worker::start().value(source, "tuples"), json!([1, [2, 1]]));
    for (function, says) in [
        ("nan", "not finite"),
        ("keys", "keys that are not strings"),
        ("big", "beyond 64 bits"),
        ("surrogate", "lone surrogate"),
        ("generator", "a generator has no value"),
        ("thing", "a value of type object"),
    ] {
        let declined = declined(source, function);
        assert_eq!(declined.reason, Reason::ResultNotSerialisable);
        assert!(declined.message.contains(says), "{}", declined.message);
        assert!(!declined.hint.is_empty());
    }
}

/// The same values, for a caller that takes pickles: JSON only where it gives back the same.
#[test]
fn caller_that_takes_pickles_gets_what_json_would_change() {
    let mut worker = Worker::start();
    let source = "def same(value):\n    return value\n";
    for (value, pickle) in [
        ("(1, 2)", true),
        ("[1, 2]", false),
        ("{1: 2}", true),
        ("{'a': [None, True, 0.5]}", false),
        ("float('nan')", true),
        ("1 << 64", true),
        ("{1}", true),
    ] {
        let arguments = pickled(&format!("(({value},), {{}})"));
        match worker.call(&call_with(source, "same", arguments)).unwrap() {
            Answer::Pickle { python, .. } => assert!(pickle && python.starts_with("3."), "{value}"),
            Answer::Json(_) => assert!(!pickle, "{value}"),
            other @ (Answer::Raised(_) | Answer::Declined(_)) => panic!("{value} gave {other:?}"),
        }
    }
}

/// Classes of the file are found by name, by the worker's unpickler and by the caller's.
#[test]
fn pickles_find_classes_of_the_file_by_its_name() {
    let mut worker = Worker::start();
    let source = "class Point:\n    def __init__(self, x):\n        self.x = x\n\
                  def double(point):\n    return Point(point.x * 2)\n\
                  def check(point):\n    return [type(point) is Point, point.x]\n";
    let Arguments::Pickle { python, .. } = pickled("None") else { panic!("no pickle") };
    // As a Python caller that has `task.Point` writes `((Point(21),), {})`, protocol 0.
    let bytes =
        b"((ccopy_reg\n_reconstructor\n(ctask\nPoint\nc__builtin__\nobject\nNtR(dVx\nI21\nsbt(dt.";
    let arguments = Arguments::Pickle { bytes: bytes.to_vec(), python: python.clone() };
    let doubled = worker.call(&call_with(source, "double", arguments.clone())).unwrap();
    let Answer::Pickle { bytes, .. } = doubled else { panic!("{doubled:?}") };
    assert!(bytes.windows(4).any(|four| four == b"task"), "{}", bytes.escape_ascii());
    let checked = worker.call(&call_with(source, "check", arguments)).unwrap();
    assert_eq!(checked, Answer::Json("[true,21]".to_owned()));
}

#[test]
fn refuses_pickles_of_another_python_by_name() {
    let arguments =
        Arguments::Pickle { bytes: b"cos\n_exit\n(I0\ntR.".to_vec(), python: "2.7".into() };
    let answer = Worker::start().call(&call_with("def f():\n    pass\n", "f", arguments)).unwrap();
    let Answer::Declined(declined) = answer else { panic!("{answer:?}") };
    assert_eq!(declined.reason, Reason::PythonMismatch);
    assert!(declined.message.contains("pickled by Python 2.7"), "{}", declined.message);
}

#[test]
fn traceback_is_as_the_user_wrote_it() {
    let source = "def outer():\n    try:\n        inner()\n    except KeyError as error:\n\
                  \x20       raise ValueError('wrong') from error\n\
                  def inner():\n    {}['key']\n";
    let raised = raised(source, "outer");
    assert_eq!((raised.exception.as_str(), raised.message.as_str()), ("ValueError", "wrong"));
    let lines: Vec<&str> = raised.traceback.lines().filter(|line| !line.contains("^^")).collect();
    assert_eq!(
        lines,
        [
            "Traceback (most recent call last):",
            "  File \"task.py\", line 3, in outer",
            "    inner()",
            "  File \"task.py\", line 7, in inner",
            "    {}['key']",
            "KeyError: 'key'",
            "",
            "The above exception was the direct cause of the following exception:",
            "",
            "Traceback (most recent call last):",
            "  File \"task.py\", line 5, in outer",
            "    raise ValueError('wrong') from error",
            "ValueError: wrong",
        ]
    );
}

#[test]
fn no_exception_shows_the_worker() {
    for (source, function, exception) in [
        ("def f(x):\n    pass\n", "f", "TypeError"),
        ("def f(:\n", "f", "SyntaxError"),
        ("1/0\n", "f", "ZeroDivisionError"),
        ("def f():\n    f()\n", "f", "RecursionError"),
        ("def f():\n    raise KeyboardInterrupt\n", "f", "KeyboardInterrupt"),
        ("async def f():\n    raise OSError(2, 'x')\n", "f", "FileNotFoundError"),
        (
            "class E(Exception):\n    def __str__(self):\n        1/0\ndef f():\n    raise E\n",
            "f",
            "task.E",
        ),
    ] {
        let raised = raised(source, function);
        assert_eq!(raised.exception, exception);
        for hidden in ["worker.py", "worker_rare.py", "asyncio"] {
            assert!(!raised.traceback.contains(hidden), "{}", raised.traceback);
        }
    }
}

#[test]
fn exits_and_missing_modules_are_told_apart() {
    for (leave, code) in [("exit()", 0), ("exit(3)", 3), ("exit('why')", 1), ("exit(256 + 4)", 4)] {
        let raised = raised(&format!("import sys\ndef f():\n    sys.{leave}\n"), "f");
        assert_eq!((raised.exception.as_str(), raised.exit_code), ("SystemExit", Some(code)));
    }
    let raised = raised("import nowhere.to_be_found\ndef f():\n    pass\n", "f");
    assert_eq!(raised.missing_module.as_deref(), Some("nowhere"));
    assert_eq!(raised.exit_code, None);
}

#[test]
fn long_messages_are_cut() {
    let raised = raised("def f():\n    raise ValueError('\\x01' * (50 << 20))\n", "f");
    assert!(raised.message.len() < 5000 && raised.traceback.len() < 140_000);
    assert!(raised.message.contains("characters left out"));
}

#[test]
fn names_that_are_not_functions_are_refused_with_near_ones() {
    let source = "number = 3\ndef greet():\n    pass\n";
    let missing = declined(source, "gret");
    assert_eq!(missing.reason, Reason::NoFunction);
    assert!(missing.hint.contains("did you mean `greet`?"), "{}", missing.hint);
    let number = declined(source, "number");
    assert_eq!(number.reason, Reason::NotCallable);
    assert!(number.message.contains("value of type int"), "{}", number.message);
}

#[test]
fn file_is_imported_under_its_stem_and_not_as_main() {
    let source = "import sys\nran = __name__ == '__main__'\ndef f():\n    \
                  return [ran, __name__, sys.modules[__name__].f is f, sys.argv]\n";
    let value = Worker::start().value(source, "f");
    assert_eq!(value, json!([false, "task", true, ["task.py"]]));
    // A file called like a module of Python does not take its place.
    let mut shadow = call("import random\ndef f():\n    return random.random() < 2\n", "f", &[]);
    shadow.file_name = "random.py".to_owned();
    assert_eq!(Worker::start().call(&shadow).unwrap(), Answer::Json("true".to_owned()));
}

#[test]
fn coroutines_are_run() {
    let source = "import asyncio\nasync def f():\n    await asyncio.sleep(0)\n    return 'done'\n";
    assert_eq!(answer(source, "f").unwrap(), Answer::Json("\"done\"".to_owned()));
}

#[test]
fn function_neither_sees_nor_hands_on_the_connection() {
    let source = "import os, subprocess\n\
                  def own():\n    return os.readlink('/proc/self/fd/1000')\n\
                  def handed_on():\n    listing = ['/bin/ls', '-l', '/proc/self/fd']\n    return \
                  subprocess.run(listing, stdout=-1, close_fds=False).stdout.decode()\n";
    let mut worker = Worker::start();
    let connection = worker.value(source, "own");
    let handed_on = worker.value(source, "handed_on");
    assert!(connection.as_str().unwrap().starts_with("socket:["));
    assert!(!handed_on.as_str().unwrap().contains(connection.as_str().unwrap()), "{handed_on}");
}

#[test]
fn output_is_complete_when_the_answer_is_there_and_streams_are_put_back() {
    let mut worker = Worker::start();
    let source = "import sys, io\n\
                  def partial():\n    print('no newline', end='')\n    \
                  print('err', end='', file=sys.stderr)\n\
                  def steal():\n    sys.stdout = sys.stderr = io.StringIO()\n    print('stolen')\n\
                  def after():\n    print('; after')\n";
    for function in ["partial", "steal", "after"] {
        assert_eq!(worker.value(source, function), Value::Null);
    }
    let (status, stdout, stderr) = worker.end();
    assert!(status.success());
    assert_eq!((stdout.as_str(), stderr.as_str()), ("no newline; after\n", "err"));
}

/// The files under `examples/functions/` do in a worker what they say.
#[test]
fn modules_are_preloaded_once_before_the_first_call() {
    let mut worker = Worker::start();
    let source = "import sys\nbefore = 'decimal' in sys.modules\ndef look(): return before\n";
    let mut call = call(source, "look", &[]);
    call.preload = preload(&["json", "decimal"]);
    assert_eq!(worker.call(&call).unwrap(), Answer::Json("true".to_owned()));
    call.preload = Preload::default();
    let mut plain = Worker::start();
    let answer = plain.call(&call).unwrap();
    assert_eq!(answer, Answer::Json("false".to_owned()), "the control");
}

#[test]
fn failing_preload_declines_every_call_and_names_the_environment() {
    let mut worker = Worker::start();
    let mut call = call("def look(): return 1\n", "look", &[]);
    call.preload = preload(&["json", "a_module_that_is_not_there"]);
    for _ in 0..2 {
        let Answer::Declined(declined) = worker.call(&call).unwrap() else { panic!("it answered") };
        assert_eq!(declined.reason, Reason::Preload);
        assert!(declined.message.starts_with(
            "environment `e` preloads `a_module_that_is_not_there`, which cannot be imported: \
             ModuleNotFoundError"
        ));
        assert!(declined.hint.contains("preload:"));
    }
}

fn preload(modules: &[&str]) -> Preload {
    let modules = modules.iter().map(|module| (*module).to_owned()).collect();
    Preload { environment: "e".to_owned(), modules }
}

#[test]
fn example_functions_work() {
    let answer = |name: &str, function: &str, positional: &[Value]| {
        let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/functions");
        let source = std::fs::read_to_string(format!("{directory}/{name}.py")).unwrap();
        let mut call = call(&source, function, positional);
        call.file_name = format!("{name}.py");
        Worker::start().call(&call)
    };
    for (name, function, positional, expected) in [
        ("hello", "greet", vec![json!("world")], json!("hello, world")),
        ("pi", "estimate", vec![json!(1000)], json!(3.128)),
        ("words", "count_text", vec![json!("To be or not to be"), json!(1)], json!([["to", 2]])),
        ("parallel", "largest_primes", vec![json!([100, 1000])], json!([97, 997])),
        ("fetch", "page", vec![], json!("hello from inside")),
    ] {
        let Ok(Answer::Json(text)) = answer(name, function, &positional) else { panic!("{name}") };
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), expected);
    }
    assert!(matches!(answer("sandbox", "look", &[]), Ok(Answer::Json(_))));
    assert!(matches!(answer("mistakes", "raise_an_error", &[]), Ok(Answer::Raised(_))));
    assert!(matches!(answer("mistakes", "need_a_package", &[]), Ok(Answer::Raised(_))));
    assert!(matches!(answer("mistakes", "leave", &[]), Ok(Answer::Raised(_))));
    assert!(matches!(answer("mistakes", "return_a_socket", &[]), Ok(Answer::Declined(_))));
    assert!(answer("mistakes", "die", &[]).is_err());
}
