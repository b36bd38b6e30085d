//! Packets counted by the rule that translates them.

use std::net::SocketAddrV4;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use vr_tests::each_ebpf_backend;
use vr_tests::file::File;
use vr_tests::lab::{CLIENT1, EIP1, EIP3, FORWARDED, Lab, UPLINK, VM1, VM2, VM3};
use vr_tests::ping::{Ping, ping};
use vr_tests::socket::{UdpClient, UdpEcho};

use super::PORT;

// netfilter counts the packets that begin a connection, not those that go by it.
each_ebpf_backend!(
    every_rule_has_counters_of_its_own,
    counters_go_on_while_their_rule_stands_and_begin_anew_with_a_new_one,
    counters_survive_more_rules_than_there_was_room_for,
);

/// Packets in and out of the rule that has all these fields.
fn counted(lab: &Lab, fields: Value) -> Result<(u64, u64)> {
    let status = lab.status()?;
    let rules = status["rules"].as_array().context("no rules")?;
    let fields = fields.as_object().context("fields")?;
    let mut found = rules
        .iter()
        .filter(|rule| fields.iter().all(|(name, value)| rule[name] == *value));
    let rule = found
        .next()
        .with_context(|| format!("no rule {fields:?} in {:#}", status["rules"]))?;
    ensure!(found.next().is_none(), "two rules {fields:?}");
    let packets = |way: &str| rule[way]["packets"].as_u64().context("packets");
    Ok((packets("in")?, packets("out")?))
}

fn eip(address: std::net::Ipv4Addr) -> Value {
    json!({"rule": "eip", "eip": address.to_string()})
}

/// Asks `times`, at once so that no time is left for anything else.
fn ask(
    client: &vr_tests::netns::Netns,
    to: SocketAddrV4,
    server: &vr_tests::netns::Netns,
    listening: SocketAddrV4,
    times: u64,
) -> Result<()> {
    let _server = UdpEcho::start(server, listening)?;
    let client = UdpClient::new(client)?;
    for _ in 0..times {
        client.ask(to, b"count me")?;
    }
    Ok(())
}

fn every_rule_has_counters_of_its_own(backend: &str) -> Result<()> {
    let lab = Lab::new()?;
    let file = File::two_subnets()
        .eip(EIP1, VM1)
        .eip(EIP3, VM3)
        .forward_both(FORWARDED, 8000..=8009, SocketAddrV4::new(VM2, PORT));
    lab.loads(&file, backend)?;
    let at = SocketAddrV4::new;
    ask(&lab.client1, at(EIP1, PORT), &lab.vm1, at(VM1, PORT), 5)?;
    ask(
        &lab.client1,
        at(FORWARDED, 8003),
        &lab.vm2,
        at(VM2, PORT + 3),
        7,
    )?;
    // Out by masquerade, and to another EIP by hairpin.
    ask(
        &lab.vm2,
        at(CLIENT1, PORT),
        &lab.client1,
        at(CLIENT1, PORT),
        11,
    )?;
    ask(&lab.vm2, at(EIP3, PORT), &lab.vm3, at(VM3, PORT), 13)?;
    let forward = |protocol: &str| {
        json!({
            "rule": "forward", "eip": FORWARDED.to_string(), "protocol": protocol,
            "port": 8000, "end_port": 8009, "vm-ip": VM2.to_string(), "vm-port": PORT,
        })
    };
    let masquerade = json!({"rule": "masquerade", "address": UPLINK.to_string()});
    for (rule, packets) in [
        (eip(EIP1), 5),
        (forward("udp"), 7),
        (forward("tcp"), 0),
        (masquerade, 11),
        (eip(EIP3), 13),
    ] {
        ensure!(
            counted(&lab, rule.clone())? == (packets, packets),
            "{rule}: {:#}",
            lab.status()?["rules"]
        );
    }
    // For people too.
    let text = lab.vr(&["status"])?.ok()?;
    ensure!(text.contains(&format!("EIP {EIP3} of {VM3}")), "{text}");
    Ok(())
}

fn counters_go_on_while_their_rule_stands_and_begin_anew_with_a_new_one(
    backend: &str,
) -> Result<()> {
    let lab = Lab::new()?;
    lab.loads(&File::two_subnets().eip(EIP1, VM1).eip(EIP3, VM3), backend)?;
    let rounds = |eip, times: u16| -> Result<()> {
        for sequence in 0..times {
            let answer = Ping::new(eip).sequence(sequence).send(&lab.client1)?;
            answer.expect_reply_from(eip)?;
        }
        Ok(())
    };
    rounds(EIP1, 3)?;
    rounds(EIP3, 4)?;
    // Its place in the file is nothing to a rule.
    lab.loads(&File::two_subnets().eip(EIP3, VM3).eip(EIP1, VM1), backend)?;
    rounds(EIP1, 1)?;
    ensure!(counted(&lab, eip(EIP1))? == (4, 4));
    ensure!(counted(&lab, eip(EIP3))? == (4, 4));
    // Another VM is another rule; so is the same after it was gone.
    lab.loads(&File::two_subnets().eip(EIP3, VM2).eip(EIP1, VM1), backend)?;
    ensure!(counted(&lab, eip(EIP3))? == (0, 0));
    rounds(EIP3, 2)?;
    ensure!(counted(&lab, eip(EIP3))? == (2, 2));
    lab.loads(&File::two_subnets().eip(EIP3, VM2), backend)?;
    lab.loads(&File::two_subnets().eip(EIP3, VM2).eip(EIP1, VM1), backend)?;
    ensure!(counted(&lab, eip(EIP1))? == (0, 0));
    ensure!(counted(&lab, eip(EIP3))? == (2, 2));
    Ok(())
}

fn counters_survive_more_rules_than_there_was_room_for(backend: &str) -> Result<()> {
    let lab = Lab::new()?;
    let few = File::two_subnets().eip(EIP1, VM1);
    lab.loads(&few, backend)?;
    ping(&lab.client1, EIP1)?;
    ensure!(counted(&lab, eip(EIP1))? == (1, 1));
    let port = |number| SocketAddrV4::new(VM2, number);
    let many = (0..2000).fold(few, |file, number| {
        file.forward_both(
            FORWARDED,
            1 + 2 * number..=1 + 2 * number,
            port(1 + 3 * number),
        )
    });
    lab.loads(&many, backend)?;
    ping(&lab.client1, EIP1)?;
    ensure!(counted(&lab, eip(EIP1))? == (2, 2));
    Ok(())
}
