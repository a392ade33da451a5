//! The word lists that the parser works with: closed classes, and what captions taught.
//!
//! Owns nothing but lists. How each is used stands where it is used.

use std::collections::{HashMap, HashSet};
use std::sync::LazyLock;

/// A list of words or phrases.
pub(super) type List = LazyLock<HashSet<&'static str>>;
/// A list of words with what each stands for.
pub(super) type Table = LazyLock<HashMap<&'static str, &'static str>>;

fn words(text: &'static str) -> HashSet<&'static str> {
    text.split_whitespace().collect()
}

fn phrases(text: &'static str) -> HashSet<&'static str> {
    text.split(',').map(str::trim).collect()
}

fn pairs(text: &'static str) -> HashMap<&'static str, &'static str> {
    text.split(',')
        .filter_map(|pair| pair.trim().split_once(':'))
        .collect()
}

/// Endings in `-ies` whose singular keeps the `e`.
pub(super) static IE_NOUNS: List = LazyLock::new(|| {
    words(
        "brownie birdie calorie cookie eerie genie hoodie hippie movie prairie rookie selfie smoothie \
         sortie talkie veggie zombie",
    )
});

/// Verbs that end in `e` although the spelling of their stem does not tell.
pub(super) static E_VERBS: List = LazyLock::new(|| {
    words(
        "admire arrange bathe become bite bore breathe celebrate change challenge clothe combine come \
         compete complete compose decline define describe divide examine exchange excite expose \
         explore graze hinge illustrate imagine inspire invite line lounge mine observe outline paste \
         plunge prepare provide promote range recline require retire ride shore smile stare store \
         surprise taste tie waste",
    )
});

/// Whole words that end in `-ing` or `-ed` and are no form of another.
pub(super) static WHOLE: List = LazyLock::new(|| {
    words(
        "bed bring cling feed fling red ring shed sing sled speed spring sting string swing weed wing \
         bleed breed need seed wed king thing ceiling",
    )
});

/// Plurals that no rule gives.
pub(super) static NOUNS: Table = LazyLock::new(|| {
    pairs(
        "aircraft:aircraft, axes:axe, blues:blue, buses:bus, calves:calf, canoes:canoe, \
         children:child, clothes:clothes, cookies:cookie, dice:die, doves:dove, elves:elf, feet:foot, \
         firemen:fireman, gas:gas, gases:gas, geese:goose, glasses:glasses, goggles:goggles, \
         halves:half, headphones:headphones, hooves:hoof, jeans:jeans, knives:knife, leaves:leaf, \
         lens:lens, lenses:lens, lives:life, loaves:loaf, men:man, mice:mouse, movies:movie, \
         news:news, overalls:overalls, oxen:ox, pajamas:pajamas, pants:pants, pies:pie, \
         policemen:policeman, scarves:scarf, scissors:scissors, series:series, sheeps:sheep, \
         shelves:shelf, shoes:shoe, shorts:shorts, sunglasses:sunglasses, teeth:tooth, thieves:thief, \
         ties:tie, tights:tights, toes:toe, trousers:trousers, veggies:veggie, wolves:wolf, \
         women:woman, yes:yes",
    )
});

/// Irregular verbs; all forms of `lie` are those of `lay`, as writers of captions mix them.
pub(super) static VERBS: Table = LazyLock::new(|| {
    pairs(
        "am:be, are:be, ate:eat, beaten:beat, been:be, being:be, began:begin, begun:begin, bent:bend, \
         bitten:bite, bit:bite, blew:blow, blown:blow, bought:buy, bound:bind, bringing:bring, \
         broke:break, broken:break, brought:bring, built:build, burnt:burn, came:come, caught:catch, \
         chosen:choose, clung:cling, did:do, does:do, done:do, dove:dive, dragged:drag, drank:drink, \
         drawn:draw, drew:draw, driven:drive, drove:drive, drunk:drink, dug:dig, dying:die, \
         eaten:eat, fallen:fall, fed:feed, fell:fall, felt:feel, fought:fight, found:find, flew:fly, \
         flown:fly, frozen:freeze, gave:give, given:give, goes:go, gone:go, got:get, gotten:get, \
         grew:grow, grown:grow, ground:grind, had:have, has:have, having:have, held:hold, hid:hide, \
         hidden:hide, hung:hang, is:be, kept:keep, kneeling:kneel, knelt:kneel, known:know, laid:lay, \
         lain:lay, lays:lay, lead:lead, leapt:leap, led:lead, left:leave, lie:lay, lies:lay, \
         lit:light, lying:lay, made:make, meeting:meet, met:meet, mown:mow, overlooking:overlook, \
         ran:run, ridden:ride, rode:ride, rose:rise, sang:sing, sat:sit, saw:see, seated:sit, \
         seating:sit, seen:see, sent:send, shaken:shake, shone:shine, shot:shoot, shown:show, \
         skiing:ski, skis:ski, slept:sleep, slid:slide, sold:sell, spoken:speak, spun:spin, \
         stood:stand, strung:string, stuck:stick, struck:strike, swam:swim, swung:swing, taken:take, \
         taught:teach, threw:throw, thrown:throw, told:tell, took:take, tying:tie, used:use, \
         using:use, was:be, went:go, were:be, wore:wear, worn:wear, wound:wind, woven:weave, \
         written:write, wrote:write",
    )
});

/// Articles and what stands in their place.
pub(super) static DETERMINERS: List =
    LazyLock::new(|| words("a an the this that these those each every another both all"));

/// Words that say how many without a number.
pub(super) static QUANTIFIERS: List = LazyLock::new(|| {
    words("many several few some any various numerous other multiple more most dozen")
});

/// Words that say whose.
pub(super) static POSSESSIVES: List = LazyLock::new(|| words("his her its their my your our"));

/// Verbs that only help another; contractions without their apostrophe.
pub(super) static AUXILIARIES: List = LazyLock::new(|| {
    words(
        "is are was were be been being am can could will would may might must should shall do does \
         did isnt arent wasnt werent doesnt dont appears appear seems seem its theres",
    )
});

/// Words that place or join one thing with another.
pub(super) static PREPOSITIONS: List = LazyLock::new(|| {
    words(
        "on in at with of under behind near by above below over beside besides between among amongst \
         against inside outside into onto from through thru across along alongside around toward \
         towards beneath underneath atop off upon within without for about after before during past \
         beyond amid like per via down up out opposite next except aboard than as",
    )
});

/// Words that stand for a thing.
pub(super) static PRONOUNS: List = LazyLock::new(|| {
    words(
        "it he she they them him i we us you me something someone nothing himself \
         herself itself themselves eachother everything everyone anyone",
    )
});

/// Adverbs that a tagger takes for something else, or that matter.
pub(super) static ADVERBS: List = LazyLock::new(|| {
    words(
        "very together away back closely partially partly mostly slightly quite really too also still \
         just only almost nearly so here apart forward ahead nearby upside sideways upwards downwards \
         now then completely fully somewhat",
    )
});

/// Colours and what behaves like them.
pub(super) static COLOURS: List = LazyLock::new(|| {
    words(
        "red blue green yellow black white brown grey gray pink purple orange tan silver gold golden \
         beige maroon teal turquoise violet blonde blond navy khaki cream burgundy ivory lavender \
         plaid striped wooden multicolored multi-colored",
    )
});

/// Number words with their digits.
pub(super) static NUMBERS: Table = LazyLock::new(|| {
    pairs(
        "one:1, two:2, three:3, four:4, five:5, six:6, seven:7, eight:8, nine:9, ten:10, eleven:11, \
         twelve:12, thirteen:13, fourteen:14, fifteen:15, sixteen:16, seventeen:17, eighteen:18, \
         nineteen:19, twenty:20, thirty:30, forty:40, fifty:50, hundred:100",
    )
});

/// Words that a tagger trained on news takes for something else.
pub(super) static CORRECTIONS: Table = LazyLock::new(|| {
    pairs(
        "curly:JJ, miniature:JJ, mini:JJ, tiny:JJ, antique:JJ, shaggy:JJ, scruffy:JJ, microwave:NN, \
         vest:NN, skier:NN, tracks:NNS, pants:NNS, tall:JJ, fluffy:JJ, wooden:JJ, round:JJ, \
         square:JJ, parked:VBN, concrete:NN, mosaic:NN, skateboarder:NN, surfer:NN, frisbee:NN",
    )
});

/// First words of compounds that say what the second is made of or like.
pub(super) static LIKE_ADJECTIVES: List = LazyLock::new(|| {
    words(
        "adult asian african chinese japanese indian american army baby bare brick bronze camouflage \
         cardboard cement ceramic chocolate christmas clay computer concrete copper cotton denim dirt \
         directional electric electrical female fighter fleece giant cargo whipped spandex asphalt \
         foam fruit fur glass granite grass gravel hardwood ice iron jet khaki laptop lattice leather \
         log lone male marble mesh metal mosaic nylon ocean oak paper pine plastic pleather porcelain \
         rock rubber sand satin silk slate steel stone straw styrofoam suit tile tin toy velvet vinyl \
         wicker wine wire wood wool woolen young tomato lace bamboo designer digital polka chain \
         winter summer evening wii nintendo apple stainless teenage senior junior passenger rainbow \
         lime corner outdoor indoor sports",
    )
});

/// First words that make a compound with any noun.
pub(super) static LIKE_NOUNS: List =
    LazyLock::new(|| words("left right front back top bottom side hind rear upper lower"));

/// Verbs in -ing that stand before a noun as adjectives do; others take it as their object.
pub(super) static LIKE_ADJECTIVES_ING: List = LazyLock::new(|| {
    words(
        "smiling sitting standing sleeping flying rocking rolling folding sliding sparkling setting \
         parking running laughing hanging walking grazing floating moving oncoming glowing matching \
         reclining revolving swinging overhanging burning towering crashing flowing jumping crying \
         growing blooming missing shining peeling breaking surrounding",
    )
});

/// Compounds besides those that region detectors name.
pub(super) static COMPOUNDS: List = LazyLock::new(|| {
    phrases(
        "dining table, dining room, cutting board, chopping board, rocking chair, living room, \
         parking lot, parking meter, parking garage, swimming pool, washing machine, frying pan, \
         mixing bowl, baking sheet, baking pan, high chair, hot dog, polar bear, french fry, landing \
         gear, steering wheel, bunk bed, video game, mobile phone, ice cream, bowling ball, serving \
         tray, drinking glass, shopping bag, shopping cart, sleeping bag, wedding cake, light bulb, \
         light fixture, light switch, light pole, light post, sewing machine, vending machine, \
         starting line, shipping container, measuring cup, skiing slope, waiting room, reading glass, \
         hiking boot, hiking trail, dressing room, measuring tape, orange juice, green bean, red \
         light, remote control, shaving cream, railing post, racing track",
    )
});

/// Parts that a thing has when its name stands right before them.
pub(super) static PARTS: List = LazyLock::new(|| {
    words(
        "head face neck leg arm hand foot ear eye nose mouth tail body back hair fur paw hoof horn \
         mane tooth trunk finger shoulder knee beak wing feather tusk claw chest wrist lap chin \
         tongue snout skin hat shirt shoe pants helmet jacket shorts",
    )
});

/// Nouns before `of` that only say how many or how laid out: `a bunch of trees` are trees.
pub(super) static MEASURES: List = LazyLock::new(|| {
    words(
        "lot bunch pair row pile stack bouquet couple bale loaf cluster variety kind type number set \
         amount handful dozen herd flock sort assortment collection series body grouping load plenty \
         array abundance layer roll string ton bundle clump majority mix selection hundred \
         gathering pack style cup crowd swarm bed mound mixture rest strip stretch heap mass \
         blade ball bushel portion spray view",
    )
});

/// Nouns before `of` that are kept as an attribute: `a piece of cake` is cake, a piece.
pub(super) static SHARES: List =
    LazyLock::new(|| words("piece slice part patch chunk bit half section"));

/// Shades that belong to the colour after them.
pub(super) static SHADES: List = LazyLock::new(|| {
    words("light dark bright pale deep neon navy lime golden hot baby forest royal")
});

/// Adverbs that say nothing that can be seen.
pub(super) static EMPTY_ADVERBS: List = LazyLock::new(|| {
    words("very really so quite too also still just only almost nearly somewhat slightly")
});

/// Nouns before `of` that hold what follows, with how they hold it.
pub(super) static HOLDERS: Table = LazyLock::new(|| {
    pairs(
        "plate:on, tray:on, platter:on, glass:in, bottle:in, bowl:in, box:in, basket:in, vase:in, \
         bucket:in, mug:in, jar:in, bag:in, can:in, line:in, cup:in, pot:in, pitcher:in, crate:in, \
         bin:in",
    )
});

/// Verbs whose past participle with `in`, `by` or `with` says what the object does to the subject.
pub(super) static PASSIVE_IN: List = LazyLock::new(|| words("cover surround enclose line"));

/// Verbs after whose participle `by` says where.
pub(super) static PLACED: List =
    LazyLock::new(|| words("park sit stand lay place locate put leave set hang stack station"));

/// Verbs that only somebody can do.
pub(super) static ACTIVE: List = LazyLock::new(|| {
    words(
        "wear hold ride carry eat play look watch walk talk run jump swing throw catch hit kick ski \
         surf skate skateboard snowboard read drink swim smile use pet feed pull push wait sleep \
         graze drive kneel pose cut cook prepare dress bend leap work race sniff reach wash brush \
         serve bite chase lick sit stand climb crouch squat",
    )
});

/// Verbs after whose object a place is said of the object, not of the subject.
pub(super) static HOLDING: List = LazyLock::new(|| {
    words("wear have hold carry show display see contain line cover surround overlook put")
});

/// Nouns that make a preposition together with the words around them: `on the top of`.
pub(super) static PLACES: Table = LazyLock::new(|| {
    pairs(
        "top:on top of, side:on side of, sides:on side of, front:in front of, back:on back of, \
         bottom:on bottom of, middle:on middle of, center:in center of, end:in end of, edge:on edge \
         of, corner:in corner of, left:at the left of, right:on the right side of, rear:at rear of, \
         inside:inside, outside:outside, base:on bottom of",
    )
});

/// Prepositions that are written in more than one way.
pub(super) static SPELLINGS: Table = LazyLock::new(|| {
    pairs(
        "underneath:under, beneath:under, below:under, atop:on top of, thru:through, in \
         between:between, towards:toward, close to:near, besides:beside, off of:off, inside \
         of:inside, outside of:outside, up in:in, out in:in, up on:on, out on:on, upon:on",
    )
});
