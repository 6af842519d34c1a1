//! Tests of chat templates: the well-known ones, and hostile ones.

use super::*;
use crate::load::{Strings, Value as Entry};
use std::time::{Duration, Instant, UNIX_EPOCH};

/// Noon of 2024-07-26, the day of the recorded prompts.
fn day() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_721_995_200)
}

fn metadata(template: &str, bos: &str, eos: &str) -> Metadata {
    let mut tokens = Strings::default();
    [bos, eos].iter().for_each(|token| tokens.push(token).unwrap());
    let entries = [
        (TEMPLATE, Entry::String(template.to_owned())),
        (TOKENS, Entry::Array(crate::load::Array::Strings(tokens))),
        (BOS, Entry::Unsigned(0)),
        (EOS, Entry::Unsigned(1)),
    ];
    Metadata::new(Path::new("tiny.gguf"), entries.map(|(key, value)| (key.to_owned(), value)).into())
}

fn template(source: &str) -> ChatTemplate {
    ChatTemplate::from_metadata(&metadata(source, "<s>", "</s>")).expect("metadata").expect("template")
}

fn render(source: &str) -> Result<String> {
    template(source).render_at(day(), &[Message::new("user", "Hi")], true)
}

fn fixture(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/parity/templates").join(file);
    std::fs::read_to_string(path).expect("fixture")
}

#[test]
fn well_known_templates_render_as_in_jinja() {
    let recorded: serde_json::Value = serde_json::from_str(&fixture("rendered.json")).expect("JSON");
    for case in recorded["cases"].as_array().expect("cases") {
        let text = |key: &str| case[key].as_str().expect("text");
        let metadata = metadata(&fixture(text("template")), text("bos"), text("eos"));
        let template = ChatTemplate::from_metadata(&metadata).expect("metadata").expect("template");
        let message = |m: &serde_json::Value| {
            Message::new(m["role"].as_str().expect("role"), m["content"].as_str().expect("content"))
        };
        let messages: Vec<Message> = case["messages"].as_array().expect("messages").iter().map(message).collect();
        let rendered = template.render_at(day(), &messages, case["add_generation_prompt"] == true);
        match (rendered, case["refusal"].as_str()) {
            (Ok(prompt), None) => assert_eq!(prompt, text("prompt"), "{} {messages:?}", text("template")),
            (Err(Error::InvalidArgument(what)), Some(refusal)) => {
                assert_eq!(what, format!("tiny.gguf: tokenizer.chat_template: {refusal}"));
            }
            (other, _) => panic!("{} {messages:?}: {other:?}", text("template")),
        }
    }
}

#[test]
fn the_real_smollm2_opens_the_assistants_turn() {
    let Some(metadata) = crate::testing::model(crate::testing::SMOLLM2) else { return };
    assert_eq!(metadata.str(TEMPLATE).expect("text"), Some(fixture("smollm2.jinja").as_str()));
    let template = ChatTemplate::from_metadata(&metadata).expect("metadata").expect("template");
    let prompt = template.render(&[Message::new("user", "Why is the sky blue?")], true).expect("prompt");
    assert!(prompt.ends_with("<|im_start|>user\nWhy is the sky blue?<|im_end|>\n<|im_start|>assistant\n"), "{prompt}");
    let tokenizer = crate::tokenizer::Tokenizer::from_metadata(&metadata).expect("tokenizer");
    let ids = tokenizer.encode(&prompt, true, true).expect("ids");
    assert_eq!(ids.iter().filter(|id| id.0 == 1).count(), 3, "<|im_start|> of system, user, assistant");
}

#[test]
fn broken_templates_are_named() {
    for (source, names) in [
        ("{% for m in messages %}", "syntax error"),
        ("{{ messages[0].frobnicate() }}", "frobnicate"),
        ("{{ messages | frobnicate }}", "frobnicate"),
        ("line one\n{{ missing.attribute }}", "(in tokenizer.chat_template:2)"),
        ("{% include 'other' %}", "include"),
        ("{{ 1 / 0 }}", "tokenizer.chat_template:1"),
    ] {
        let error = render(source).expect_err(source);
        let text = error.to_string();
        assert!(matches!(error, Error::ModelFormat { .. }), "{source}: {error:?}");
        assert!(text.starts_with("tiny.gguf: tokenizer.chat_template: ") && text.contains(names), "{source}: {text}");
    }
}

#[test]
fn bad_metadata_is_named() {
    let cases = [
        (TEMPLATE, Entry::Unsigned(7), "expected a string, found 7"),
        (TEMPLATE, Entry::String("x".repeat(MAX_TEMPLATE_BYTES + 1)), "65536 bytes"),
        (BOS, Entry::Unsigned(2), "token 2 is outside the vocabulary of 2"),
    ];
    for (key, value, names) in cases {
        let mut entries = metadata("x", "<s>", "</s>").entries().clone();
        entries.insert(key.to_owned(), value);
        let error = ChatTemplate::from_metadata(&Metadata::new(Path::new("tiny.gguf"), entries)).expect_err(key);
        assert_eq!(error.to_string().split_once(key).map(|(file, _)| file), Some("tiny.gguf: "), "{error}");
        assert!(error.to_string().contains(names), "{error}");
    }
    let none = Metadata::new(Path::new("tiny.gguf"), Default::default());
    assert!(ChatTemplate::from_metadata(&none).expect("no template is no error").is_none());
}

/// Runs a hostile template: any answer will do, if it comes soon and the process is still there to give it.
fn survives(source: &str) {
    assert!(source.len() <= MAX_TEMPLATE_BYTES);
    let start = Instant::now();
    let result = render(source);
    let (took, head) = (start.elapsed(), source.chars().take(100).collect::<String>());
    eprintln!("{took:?} {head}: {}", result.as_ref().map_or_else(|e| e.to_string(), |p| format!("{} bytes", p.len())));
    assert!(took < Duration::from_secs(20), "{head}: {took:?}");
    assert!(result.map_or(0, |prompt| prompt.len()) < 32 << 20, "{head}");
}

#[test]
fn endless_templates_run_out_of_fuel() {
    for source in [
        "{% for a in range(100000) %}{% for b in range(100000) %}x{% endfor %}{% endfor %}",
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{% macro again(n) %}{{ again(n + 1) }}{% endmacro %}{{ again(0) }}",
        "{% macro again(n) %}{{ again(n) }}{{ again(n) }}{% endmacro %}{{ again(0) }}",
        "{% for m in [[[]]] recursive %}{{ loop([m]) }}{% endfor %}",
        "{{ 'a' * 10**9 }}",
        "{{ 'a' * 1000000000000 }}",
        "{{ [1] * 10**9 }}",
        "{{ 10 ** 10 ** 10 }}",
        "{{ range(10**18) | list | length }}",
        "{{ 'x' | indent(10**12) }}{{ '%999999999d' | format(1) }}{{ 'a' | center(10**10) }}",
        "{{ 'a'.join(range(100000) | list) }}{{ ('a' * 1000000).replace('a', 'b' * 1000000) }}",
        "{% set ns = namespace(x='aaaaaaaa') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}{{ ns.x }}",
        "{% set ns = namespace(x='a') %}{% for i in range(60) %}{% set ns.x = ns.x.replace('a', 'aa') %}{% endfor %}",
        "{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}{{ ns.x }}",
        "{% set x %}{% for i in range(100000) %}{{ 'a' * 1000 }}{% endfor %}{% endset %}{{ x * 1000 }}",
        "{{ ('a' * 100000).split('') | length }}{{ 'a' * 100000 | batch(1) | list }}",
        "{{ strftime_now('%A' * 100000) }}{{ raise_exception('a' * 10000000) }}",
    ] {
        survives(source);
    }
}

/// Two values of `ns`, `x` and `y`, that hold the same two items on each of so many levels.
fn doubled(levels: usize) -> String {
    let double = "{% set ns.x = [ns.x, ns.x] %}{% set ns.y = [ns.y, ns.y] %}";
    format!("{{% set ns = namespace(x=['a'], y=['a']) %}}{{% for i in range({levels}) %}}{double}{{% endfor %}}")
}

#[test]
fn values_that_share_their_items_do_not_explode() {
    let by_list = doubled(60);
    for heavy in [
        by_list.as_str(),
        "{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
        "{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = ns.x * 2 %}{% endfor %}",
        "{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = ns.x | zip(ns.x) %}{% endfor %}",
        "{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = dict(a=ns.x, b=ns.x) %}{% endfor %}",
        "{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = {1: ns.x, 2: ns.x} %}{% endfor %}",
        "{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = (ns.x, ns.x) %}{% endfor %}",
        "{% set ns = namespace(x=1) %}{% set ns.x = ns %}",
        "{% set ns = namespace(x=1) %}{% set ns.x = [ns] %}",
        "{% set ns = namespace(x=1) %}{% set other = namespace(y=ns) %}{% set ns.x = other %}",
    ] {
        for consumer in ["{{ ns.x }}", "{{ ns.x ~ '' }}", "{{ ns.x | tojson }}", "{{ ns.x == [ns.x] }}", "{{ ns }}"] {
            survives(&[heavy, consumer].concat());
            assert!(render(&[heavy, consumer].concat()).is_err(), "{heavy}{consumer}");
        }
    }
    let assignments: String = (0..2000).map(|i| format!("{{% set ns.x{i} = ns.x %}}")).collect();
    survives(&[&doubled(12), assignments.as_str(), "{{ ns }}"].concat());
}

#[test]
fn heavy_values_are_not_walked_for_long() {
    let heavy = doubled(12);
    for work in [
        "ns.x == ns.y",
        "ns.x < ns.y",
        "ns.x ~ ''",
        "[ns.x, ns.y] | sort",
        "[ns.x, ns.y] | unique",
        "ns.x in [ns.y]",
        "ns.x | string",
        "ns.x | tojson",
        "ns.x | tojson(indent=16)",
        "'%s' | format(ns.x)",
        "{}[ns.x]",
        "ns.x | pprint",
        "[ns.x].count(ns.y)",
        "{'a': ns.x} == {'a': ns.y}",
        "[ns.x, ns.y] | max",
        "ns.x[0:]",
        "ns.x | upper",
        "ns.x | reverse",
        "ns.x | map('string') | join",
        "ns.x is sameas ns.y",
        "ns.x | batch(1)",
        "ns == ns",
    ] {
        survives(&[&heavy, "{% for i in range(15000) %}{% set z = ", work, " %}{% endfor %}"].concat());
    }
}

#[test]
fn deep_nesting_does_not_exhaust_the_stack() {
    let deeper = |levels| format!("{{% for i in range({levels}) %}}{{% set ns.x = [ns.x] %}}{{% endfor %}}");
    for levels in [50, 15_000] {
        for consumer in ["", "{{ ns.x }}", "{{ ns.x | tojson }}", "{{ ns.x == [ns.x] }}", "{{ {}[ns.x] }}"] {
            survives(&["{% set ns = namespace(x=[]) %}", &deeper(levels), consumer].concat());
        }
    }
    for (open, unit, close, after) in [
        ("{{ ", "(", "1", ")"),
        ("{{ ", "[", "1", "]"),
        ("{{ ", "{'a':", "1", "}"),
        ("{{ ", "x[", "1", "]"),
        ("{{ ", "f(", "1", ")"),
        ("{{ ", "not ", "1", ""),
        ("{{ ", "-", "1", ""),
        ("{{ ", "x if ", "1", ""),
        ("{{ x", ".a", "", ""),
        ("{{ 1", "+1", "", ""),
        ("{{ x", "|e", "", ""),
        ("{{ x", "()", "", ""),
        ("{{ x", "[0]", "", ""),
        ("{{ x", " and x", "", ""),
        ("{{ x", " is none", "", ""),
        ("{{ 'a'", "~'a'", "", ""),
        ("{{ 'a'", " 'a'", "", ""),
        ("{{ 1", "<1", "", ""),
        ("{{ ", "x,", "", ""),
    ] {
        // As deep as the parser goes, as long as a tag may be, and longer.
        for count in [140, 1300, 1990, 8000] {
            let tag = [open, &unit.repeat(count), close, &after.repeat(count), " }}"].concat();
            survives(&tag.repeat((MAX_TEMPLATE_BYTES / tag.len()).clamp(1, 20)));
        }
    }
    for tag in [
        "{% if x %}",
        "{% for x in [1] %}",
        "{% macro x() %}",
        "{% filter e %}",
        "{% set x %}",
        "{% with x = 1 %}",
        "{% call x() %}",
        "{% autoescape true %}",
        "{% raw %}",
        "{# x #}",
        "{{ x }}",
    ] {
        survives(&tag.repeat(140));
        survives(&tag.repeat(MAX_TEMPLATE_BYTES / tag.len()));
    }
    survives(&["{% if x %}", &"{%elif x%}".repeat(6500), "{% endif %}"].concat());
    let (open, close) = ("{% for x in [1] %}".repeat(140), "{% endfor %}".repeat(140));
    survives(&[&open, "{{ x }}", close.as_str()].concat());
}

#[test]
fn a_long_conversation_renders() {
    let messages: Vec<Message> = (0..1001)
        .map(|turn| Message::new(["user", "assistant"][turn % 2], "All work and no play. ".repeat(50)))
        .collect();
    for file in ["smollm2.jinja", "gemma3.jinja", "llama3.jinja", "qwen3.jinja"] {
        let prompt = template(&fixture(file)).render_at(day(), &messages, true).expect(file);
        assert!(prompt.len() > 1_000_000);
    }
}

#[test]
fn json_conversations_bring_what_the_template_knows() {
    let source = "{% for m in messages %}{{ m.role }}:{{ m.content }}{% if m.tool_calls %}{{ m.tool_calls | tojson }}{% endif %};{% endfor %}\
                  {{ tools | length if tools }}{{ 'open' if add_generation_prompt }}{{ bos_token }}";
    let template = template(source);
    let cases = [
        (r#"[{"role": "user", "content": "Hi"}]"#, "user:Hi;open<s>"),
        (
            r#"{"messages": [{"role": "user", "content": "Hi"}], "tools": [1, 2], "add_generation_prompt": false}"#,
            "user:Hi;2<s>",
        ),
        (
            r#"[{"role": "assistant", "content": null, "tool_calls": [{"id": 1}]}]"#,
            "assistant:None[{\"id\": 1}];open<s>",
        ),
    ];
    for (json, prompt) in cases {
        assert_eq!(template.render_json(json).expect("prompt"), prompt, "{json}");
    }
    let refused = [
        ("", "EOF"),
        ("7", "neither an array"),
        ("{}", "no array \"messages\""),
        (r#"{"messages": {}}"#, "no array \"messages\""),
        ("[]", "empty"),
        ("[1]", "messages[0] has no string \"role\""),
        (r#"[{"role": 5}]"#, "messages[0] has no string \"role\""),
        (&format!("{}{}", "[".repeat(100_000), "]".repeat(100_000)), "recursion"),
    ];
    for (json, words) in refused {
        match template.render_json(json) {
            Err(Error::InvalidArgument(what)) => assert!(what.contains(words), "{what}"),
            other => panic!("{words}: {other:?}"),
        }
    }
}
