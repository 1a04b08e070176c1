//! Modules made up from the specifications' own offsets, and what they are
//! read as.

use expect_test::{Expect, expect};
use purlin_core::inventory::{Media, Transceiver};
use purlin_drivers::transceiver::{PAGE, Page, Pages, decode, wanted};

/// Pages of a module, in the order of `Page::ALL`.
struct Module(Vec<u8>);

impl Module {
    fn new(identifier: u8) -> Self {
        let mut module = Self(vec![0; Page::ALL.len() * PAGE]);
        module.set(Page::LOWER, 0, &[identifier]);
        module
    }

    fn start(page: Page) -> usize {
        let index = Page::ALL.iter().position(|it| *it == page).expect("a page that is looked at");
        index * PAGE
    }

    /// Bytes at an address as the specification counts it.
    fn set(&mut self, page: Page, at: usize, bytes: &[u8]) -> &mut Self {
        let at = Self::start(page) + at - page.offset() as usize;
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
        self
    }

    fn text(&mut self, page: Page, at: usize, length: usize, text: &str) -> &mut Self {
        self.set(page, at, format!("{text:<length$}").as_bytes())
    }

    fn words(&mut self, page: Page, at: usize, words: &[u16]) -> &mut Self {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
        self.set(page, at, &bytes)
    }

    /// The low byte of the sum from `first` up to `at`, put there.
    fn sum(&mut self, page: Page, first: usize, at: usize) -> &mut Self {
        let start = Self::start(page) - page.offset() as usize;
        let sum = self.0[start + first..start + at].iter().fold(0u8, |sum, b| sum.wrapping_add(*b));
        self.set(page, at, &[sum])
    }

    fn decode(&self) -> Transceiver {
        decode(&Pages::from_flat(&self.0)).expect("a module")
    }
}

const UPPER: Page = Page::upper(0);
const A2: Page = Page::DIAGNOSTICS;

fn sfp28() -> Module {
    let mut module = Module::new(0x03);
    module
        .set(Page::LOWER, 2, &[0x07])
        .set(Page::LOWER, 12, &[0xff])
        .set(Page::LOWER, 18, &[10, 7])
        .text(Page::LOWER, 20, 16, "EXAMPLE OPTICS")
        .set(Page::LOWER, 36, &[0x02, 0x02, 0x00, 0x5e])
        .text(Page::LOWER, 40, 16, "EX-25G-SR")
        .text(Page::LOWER, 56, 4, "A1")
        .words(Page::LOWER, 60, &[850])
        .set(Page::LOWER, 66, &[103])
        .text(Page::LOWER, 68, 16, "SN0001")
        .text(Page::LOWER, 84, 8, "240229")
        .set(Page::LOWER, 92, &[0x68])
        .sum(Page::LOWER, 0, 63)
        .sum(Page::LOWER, 64, 95)
        .words(A2, 0, &[75 << 8, 0xfb00, 70 << 8, 0])
        .words(A2, 8, &[36_300, 29_700, 34_650, 31_350])
        .words(A2, 16, &[6000, 1000, 5500, 1500])
        .words(A2, 24, &[17_378, 1_450, 13_804, 1_820])
        .words(A2, 32, &[17_378, 500, 13_804, 630])
        .sum(A2, 0, 95)
        .words(A2, 96, &[(31 << 8) | 0x80, 32_900, 3_500, 5_012, 10_000])
        .set(A2, 112, &[0x00, 0x40])
        .set(A2, 116, &[0x80, 0x40]);
    module
}

#[track_caller]
fn check(module: &Transceiver, expected: Expect) {
    expected.assert_debug_eq(module);
}

#[test]
fn an_sfp_calibrated_by_itself_is_read_to_the_last_digit() {
    check(
        &sfp28().decode(),
        expect![[r#"
        Transceiver {
            form: "SFP",
            map: "SFF-8472",
            vendor: Some(
                "EXAMPLE OPTICS",
            ),
            oui: Some(
                "02:00:5e",
            ),
            part: Some(
                "EX-25G-SR",
            ),
            revision: Some(
                "A1",
            ),
            serial: Some(
                "SN0001",
            ),
            date: Some(
                "2024-02-29",
            ),
            connector: Some(
                "LC",
            ),
            media: Some(
                Optical,
            ),
            compliance: [
                "25GBASE-SR",
            ],
            lengths: [
                Length {
                    over: "OM4",
                    metres: 100.0,
                },
                Length {
                    over: "OM3",
                    metres: 70.0,
                },
            ],
            wavelength_nm: Some(
                850.0,
            ),
            rate_mbd: Some(
                25750,
            ),
            wrong_checksums: [],
            temperature_c: Some(
                31.5,
            ),
            supply_v: Some(
                3.29,
            ),
            lanes: [
                Lane {
                    tx_power: Some(
                        Power {
                            mw: 0.5012,
                            dbm: Some(
                                -3.0,
                            ),
                        },
                    ),
                    rx_power: Some(
                        Power {
                            mw: 1.0,
                            dbm: Some(
                                0.0,
                            ),
                        },
                    ),
                    bias_ma: Some(
                        7.0,
                    ),
                },
            ],
            thresholds: Some(
                Thresholds {
                    temperature_c: AlarmLimits {
                        high_alarm: 75.0,
                        low_alarm: -5.0,
                        high_warning: 70.0,
                        low_warning: 0.0,
                    },
                    supply_v: AlarmLimits {
                        high_alarm: 3.63,
                        low_alarm: 2.97,
                        high_warning: 3.465,
                        low_warning: 3.135,
                    },
                    tx_power_mw: AlarmLimits {
                        high_alarm: 1.7378,
                        low_alarm: 0.145,
                        high_warning: 1.3804,
                        low_warning: 0.182,
                    },
                    rx_power_mw: AlarmLimits {
                        high_alarm: 1.7378,
                        low_alarm: 0.05,
                        high_warning: 1.3804,
                        low_warning: 0.063,
                    },
                    bias_ma: AlarmLimits {
                        high_alarm: 12.0,
                        low_alarm: 2.0,
                        high_warning: 11.0,
                        low_warning: 3.0,
                    },
                },
            ),
            flags: [
                "rx power low alarm",
                "temperature high warning",
                "rx power low warning",
            ],
            externally_calibrated: Some(
                false,
            ),
        }
    "#]],
    );
}

#[test]
fn an_sfp_calibrated_from_outside_uses_its_constants() {
    let mut module = sfp28();
    let float = |value: f32| value.to_be_bytes();
    module
        .set(Page::LOWER, 92, &[0x58])
        .sum(Page::LOWER, 64, 95)
        // Received: 0.5 a step and 1 more; the others: slope 2, offset 10.
        .set(A2, 56, &[0; 12])
        .set(A2, 68, &float(0.5))
        .set(A2, 72, &float(1.0))
        .words(A2, 76, &[0x0200, 10, 0x0200, 10, 0x0100, 0xff00, 0x0100, 0xff9c])
        .sum(A2, 0, 95);
    let module = module.decode();
    assert_eq!(module.externally_calibrated, Some(true));
    assert_eq!(module.temperature_c, Some(30.5));
    assert_eq!(module.supply_v, Some(3.28));
    let lane = &module.lanes[0];
    assert_eq!(lane.bias_ma, Some(14.02));
    assert_eq!(lane.tx_power.as_ref().map(|it| it.mw), Some(1.0034));
    assert_eq!(lane.rx_power.as_ref().map(|it| it.mw), Some(0.5001));
    assert_eq!(module.wrong_checksums, [""; 0]);
}

#[test]
fn a_passive_copper_cable_has_a_length_and_no_light() {
    let mut module = Module::new(0x03);
    module.set(Page::LOWER, 2, &[0x21]).set(Page::LOWER, 8, &[0x04]).set(Page::LOWER, 18, &[3]);
    module.set(Page::LOWER, 36, &[0x0c]).set(Page::LOWER, 60, &[0x01]);
    module.sum(Page::LOWER, 0, 63).sum(Page::LOWER, 64, 95);
    let module = module.decode();
    assert_eq!(module.media, Some(Media::PassiveCopper));
    assert_eq!(module.compliance, ["25GBASE-CR CA-S"]);
    assert_eq!((module.lengths[0].over.as_str(), module.lengths[0].metres), ("cable", 3.0));
    assert_eq!((module.wavelength_nm, module.lanes.len(), module.vendor), (None, 0, None));
}

#[test]
fn an_active_optical_cable_is_not_copper() {
    let mut module = Module::new(0x03);
    module.set(Page::LOWER, 8, &[0x08]).words(Page::LOWER, 60, &[850]);
    assert_eq!(module.decode().media, Some(Media::Optical));
    module.words(Page::LOWER, 60, &[0x0400]);
    assert_eq!(module.decode().media, Some(Media::ActiveCopper));
}

#[test]
fn a_wrong_checksum_is_told_and_nothing_dropped() {
    let mut module = sfp28();
    module.text(Page::LOWER, 20, 16, "EXAMPLE 0PTICS");
    let module = module.decode();
    assert_eq!(module.vendor.as_deref(), Some("EXAMPLE 0PTICS"));
    expect![[r#"
        [
            "CC_BASE is 0xeb, its bytes make 0xcc",
        ]
    "#]]
    .assert_debug_eq(&module.wrong_checksums);
}

fn qsfp28() -> Module {
    let mut module = Module::new(0x11);
    module
        .set(Page::LOWER, 3, &[0x84])
        .set(Page::LOWER, 6, &[0x20, 0x10])
        .set(Page::LOWER, 9, &[0x01, 0x40])
        .words(Page::LOWER, 22, &[0xff80])
        .words(Page::LOWER, 26, &[33_000])
        .words(Page::LOWER, 34, &[10_000, 5_000, 0, 1])
        .words(Page::LOWER, 42, &[3_000, 3_100, 3_200, 3_300])
        .words(Page::LOWER, 50, &[8_000, 8_100, 8_200, 0])
        .set(UPPER, 128, &[0x11, 0xcc, 0x07, 0x80])
        .set(UPPER, 140, &[0xff, 0x00, 10])
        .set(UPPER, 147, &[0x40])
        .text(UPPER, 148, 16, "EXAMPLE OPTICS")
        .set(UPPER, 165, &[0x02, 0x00, 0x5e])
        .text(UPPER, 168, 16, "EX-100G-LR4")
        .text(UPPER, 184, 2, "1B")
        .words(UPPER, 186, &[26_000])
        .set(UPPER, 192, &[0x03])
        .text(UPPER, 196, 16, "SN0002")
        .text(UPPER, 212, 8, "23010507")
        .set(UPPER, 222, &[103])
        .sum(UPPER, 128, 191)
        .sum(UPPER, 192, 223)
        .words(Page::upper(3), 128, &[75 << 8, 0xfb00, 70 << 8, 0])
        .words(Page::upper(3), 144, &[36_300, 29_700, 34_650, 31_350])
        .words(Page::upper(3), 176, &[28_184, 500, 22_387, 1_000])
        .words(Page::upper(3), 184, &[45_000, 5_000, 40_000, 7_500])
        .words(Page::upper(3), 192, &[28_184, 500, 22_387, 1_000]);
    module
}

#[test]
fn a_qsfp28_has_four_lanes() {
    check(
        &qsfp28().decode(),
        expect![[r#"
            Transceiver {
                form: "QSFP28",
                map: "SFF-8636",
                vendor: Some(
                    "EXAMPLE OPTICS",
                ),
                oui: Some(
                    "02:00:5e",
                ),
                part: Some(
                    "EX-100G-LR4",
                ),
                revision: Some(
                    "1B",
                ),
                serial: Some(
                    "SN0002",
                ),
                date: Some(
                    "2023-01-05 lot 07",
                ),
                connector: Some(
                    "LC",
                ),
                media: Some(
                    Optical,
                ),
                compliance: [
                    "100GBASE-LR4",
                ],
                lengths: [
                    Length {
                        over: "single-mode",
                        metres: 10000.0,
                    },
                ],
                wavelength_nm: Some(
                    1300.0,
                ),
                rate_mbd: Some(
                    25750,
                ),
                wrong_checksums: [],
                temperature_c: Some(
                    -0.5,
                ),
                supply_v: Some(
                    3.3,
                ),
                lanes: [
                    Lane {
                        tx_power: Some(
                            Power {
                                mw: 0.8,
                                dbm: Some(
                                    -0.97,
                                ),
                            },
                        ),
                        rx_power: Some(
                            Power {
                                mw: 1.0,
                                dbm: Some(
                                    0.0,
                                ),
                            },
                        ),
                        bias_ma: Some(
                            6.0,
                        ),
                    },
                    Lane {
                        tx_power: Some(
                            Power {
                                mw: 0.81,
                                dbm: Some(
                                    -0.92,
                                ),
                            },
                        ),
                        rx_power: Some(
                            Power {
                                mw: 0.5,
                                dbm: Some(
                                    -3.01,
                                ),
                            },
                        ),
                        bias_ma: Some(
                            6.2,
                        ),
                    },
                    Lane {
                        tx_power: Some(
                            Power {
                                mw: 0.82,
                                dbm: Some(
                                    -0.86,
                                ),
                            },
                        ),
                        rx_power: Some(
                            Power {
                                mw: 0.0,
                                dbm: None,
                            },
                        ),
                        bias_ma: Some(
                            6.4,
                        ),
                    },
                    Lane {
                        tx_power: None,
                        rx_power: Some(
                            Power {
                                mw: 0.0001,
                                dbm: Some(
                                    -40.0,
                                ),
                            },
                        ),
                        bias_ma: Some(
                            6.6,
                        ),
                    },
                ],
                thresholds: Some(
                    Thresholds {
                        temperature_c: AlarmLimits {
                            high_alarm: 75.0,
                            low_alarm: -5.0,
                            high_warning: 70.0,
                            low_warning: 0.0,
                        },
                        supply_v: AlarmLimits {
                            high_alarm: 3.63,
                            low_alarm: 2.97,
                            high_warning: 3.465,
                            low_warning: 3.135,
                        },
                        tx_power_mw: AlarmLimits {
                            high_alarm: 2.8184,
                            low_alarm: 0.05,
                            high_warning: 2.2387,
                            low_warning: 0.1,
                        },
                        rx_power_mw: AlarmLimits {
                            high_alarm: 2.8184,
                            low_alarm: 0.05,
                            high_warning: 2.2387,
                            low_warning: 0.1,
                        },
                        bias_ma: AlarmLimits {
                            high_alarm: 90.0,
                            low_alarm: 10.0,
                            high_warning: 80.0,
                            low_warning: 15.0,
                        },
                    },
                ),
                flags: [
                    "temperature high warning",
                    "supply low warning",
                    "rx power low warning, lane 2",
                    "rx power low alarm, lane 3",
                    "rx signal lost, lane 3",
                    "tx signal lost, lane 4",
                ],
                externally_calibrated: None,
            }
        "#]],
    );
}

#[test]
fn a_qsfp_copper_cable_measures_nothing() {
    let mut module = Module::new(0x0d);
    module.set(UPPER, 130, &[0x23, 0x08]).set(UPPER, 146, &[5, 0xa0]);
    let module = module.decode();
    assert_eq!((module.form.as_str(), module.media), ("QSFP+", Some(Media::PassiveCopper)));
    assert_eq!(module.compliance, ["40GBASE-CR4"]);
    assert_eq!((module.temperature_c, module.lanes.len()), (None, 0));
    assert_eq!(module.lengths[0].metres, 5.0);
}

fn qsfp_dd() -> Module {
    let mut module = Module::new(0x18);
    module
        .set(Page::LOWER, 1, &[0x50])
        .set(Page::LOWER, 9, &[0x11])
        .words(Page::LOWER, 14, &[(45 << 8) | 0x40, 33_100])
        .set(Page::LOWER, 85, &[2, 0x11, 0x1c, 0x84, 0x01, 0x4b, 0x14, 0x22, 0x0f, 0xff])
        .set(UPPER, 128, &[0x18])
        .text(UPPER, 129, 16, "EXAMPLE OPTICS")
        .set(UPPER, 145, &[0x02, 0x00, 0x5e])
        .text(UPPER, 148, 16, "EX-400G-DR4")
        .text(UPPER, 164, 2, "02")
        .text(UPPER, 166, 16, "SN0003")
        .text(UPPER, 182, 8, "241231")
        .set(UPPER, 203, &[0x0c])
        .set(UPPER, 210, &[0xf0])
        .sum(UPPER, 128, 222)
        .set(Page::upper(1), 132, &[0x05])
        .words(Page::upper(1), 138, &[26_200])
        .set(Page::upper(1), 160, &[0x0f])
        .sum(Page::upper(1), 130, 255)
        .words(Page::upper(2), 128, &[75 << 8, 0xfb00, 70 << 8, 0])
        .words(Page::upper(2), 136, &[36_300, 29_700, 34_650, 31_350])
        .words(Page::upper(2), 176, &[50_119, 1_000, 39_811, 2_000])
        .words(Page::upper(2), 184, &[30_000, 5_000, 25_000, 10_000])
        .words(Page::upper(2), 192, &[50_119, 1_000, 39_811, 2_000])
        .sum(Page::upper(2), 128, 255)
        .set(Page::upper(0x11), 147, &[0x80, 0, 0, 0x01])
        .words(Page::upper(0x11), 154, &[10_000, 10_000, 10_000, 10_000])
        .words(Page::upper(0x11), 170, &[20_000; 8])
        .words(Page::upper(0x11), 186, &[5_000, 1, 0]);
    module
}

#[test]
fn a_cmis_module_has_as_many_lanes_as_it_says() {
    check(
        &qsfp_dd().decode(),
        expect![[r#"
            Transceiver {
                form: "QSFP-DD",
                map: "CMIS",
                vendor: Some(
                    "EXAMPLE OPTICS",
                ),
                oui: Some(
                    "02:00:5e",
                ),
                part: Some(
                    "EX-400G-DR4",
                ),
                revision: Some(
                    "02",
                ),
                serial: Some(
                    "SN0003",
                ),
                date: Some(
                    "2024-12-31",
                ),
                connector: Some(
                    "MPO 1x12",
                ),
                media: Some(
                    Optical,
                ),
                compliance: [
                    "400GBASE-DR4",
                    "100GBASE-DR",
                ],
                lengths: [
                    Length {
                        over: "single-mode",
                        metres: 500.0,
                    },
                ],
                wavelength_nm: Some(
                    1310.0,
                ),
                rate_mbd: None,
                wrong_checksums: [],
                temperature_c: Some(
                    45.25,
                ),
                supply_v: Some(
                    3.31,
                ),
                lanes: [
                    Lane {
                        tx_power: Some(
                            Power {
                                mw: 1.0,
                                dbm: Some(
                                    0.0,
                                ),
                            },
                        ),
                        rx_power: Some(
                            Power {
                                mw: 0.5,
                                dbm: Some(
                                    -3.01,
                                ),
                            },
                        ),
                        bias_ma: Some(
                            80.0,
                        ),
                    },
                    Lane {
                        tx_power: Some(
                            Power {
                                mw: 1.0,
                                dbm: Some(
                                    0.0,
                                ),
                            },
                        ),
                        rx_power: Some(
                            Power {
                                mw: 0.0001,
                                dbm: Some(
                                    -40.0,
                                ),
                            },
                        ),
                        bias_ma: Some(
                            80.0,
                        ),
                    },
                    Lane {
                        tx_power: Some(
                            Power {
                                mw: 1.0,
                                dbm: Some(
                                    0.0,
                                ),
                            },
                        ),
                        rx_power: Some(
                            Power {
                                mw: 0.0,
                                dbm: None,
                            },
                        ),
                        bias_ma: Some(
                            80.0,
                        ),
                    },
                    Lane {
                        tx_power: Some(
                            Power {
                                mw: 1.0,
                                dbm: Some(
                                    0.0,
                                ),
                            },
                        ),
                        rx_power: Some(
                            Power {
                                mw: 0.0,
                                dbm: None,
                            },
                        ),
                        bias_ma: Some(
                            80.0,
                        ),
                    },
                ],
                thresholds: Some(
                    Thresholds {
                        temperature_c: AlarmLimits {
                            high_alarm: 75.0,
                            low_alarm: -5.0,
                            high_warning: 70.0,
                            low_warning: 0.0,
                        },
                        supply_v: AlarmLimits {
                            high_alarm: 3.63,
                            low_alarm: 2.97,
                            high_warning: 3.465,
                            low_warning: 3.135,
                        },
                        tx_power_mw: AlarmLimits {
                            high_alarm: 5.0119,
                            low_alarm: 0.1,
                            high_warning: 3.9811,
                            low_warning: 0.2,
                        },
                        rx_power_mw: AlarmLimits {
                            high_alarm: 5.0119,
                            low_alarm: 0.1,
                            high_warning: 3.9811,
                            low_warning: 0.2,
                        },
                        bias_ma: AlarmLimits {
                            high_alarm: 120.0,
                            low_alarm: 20.0,
                            high_warning: 100.0,
                            low_warning: 40.0,
                        },
                    },
                ),
                flags: [
                    "temperature high alarm",
                    "supply high alarm",
                    "rx signal lost, lane 8",
                    "rx power low alarm, lane 1",
                ],
                externally_calibrated: None,
            }
        "#]],
    );
}

#[test]
fn what_a_module_does_not_measure_is_unknown_and_not_dark() {
    let mut module = qsfp28();
    assert_eq!(module.decode().lanes[3].tx_power, None);
    module.set(UPPER, 220, &[0x04]);
    assert_eq!(module.decode().lanes[3].tx_power.as_ref().map(|it| it.mw), Some(0.0));

    let mut module = qsfp_dd();
    module.set(Page::upper(1), 160, &[0x04]).sum(Page::upper(1), 130, 255);
    let lane = &module.decode().lanes[0];
    assert_eq!((&lane.bias_ma, &lane.tx_power), (&None, &None));
    assert_eq!(lane.rx_power.as_ref().map(|it| it.mw), Some(0.5));
}

#[test]
fn only_pages_that_are_there_are_wanted() {
    let wanted_of = |module: &Module| {
        let mut lower = Pages::default();
        lower.put(Page::LOWER, &module.0[..PAGE]);
        wanted(&lower)
    };
    assert_eq!(wanted_of(&sfp28()), [Page::DIAGNOSTICS]);
    assert_eq!(wanted_of(&qsfp28()), [0, 3].map(Page::upper));
    assert_eq!(wanted_of(&qsfp_dd()), [0, 1, 2, 0x11].map(Page::upper));
    assert_eq!(wanted_of(qsfp_dd().set(Page::LOWER, 2, &[0x80])), [Page::upper(0)]);
    assert_eq!(wanted_of(qsfp28().set(Page::LOWER, 2, &[0x04])), [Page::upper(0)]);
    assert_eq!(wanted_of(&Module::new(0x42)), []);
}

#[test]
fn no_bytes_are_too_odd() {
    assert_eq!(decode(&Pages::from_flat(&[])), None);
    assert_eq!(decode(&Pages::from_flat(&[0; PAGE])), None);
    for mut module in [sfp28(), qsfp28(), qsfp_dd()] {
        for pages in 0..=Page::ALL.len() {
            decode(&Pages::from_flat(&module.0[..pages * PAGE]));
        }
        // Not a random walk: every byte takes some values that are edges.
        for at in 1..module.0.len() {
            for value in [0x00, 0x7f, 0x80, 0xff] {
                let before = std::mem::replace(&mut module.0[at], value);
                let told = decode(&Pages::from_flat(&module.0)).expect("a module");
                assert!(is_finite(&told), "byte {at} = {value:#x}");
                module.0[at] = before;
            }
        }
    }
    let ones = Module([&[0x03; 1], [0xff; 7 * PAGE - 1].as_slice()].concat());
    assert!(is_finite(&ones.decode()));
}

fn is_finite(module: &Transceiver) -> bool {
    let text = format!("{module:?}");
    !text.contains("NaN") && !text.contains("inf")
}
