/** What the server answers, for the type checker only; the page does not load this file. */

/** Left, top, width and height as shares of the picture. */
export type Box = [number, number, number, number];

export type Ability =
  'embed_text' | 'embed_image' | 'match' | 'answer' | 'relation' | 'ground' | 'explain' | 'select';

export interface Model {
  id: string;
  dimensions: number | null;
  abilities: string[];
  methods: string[];
  classes: number | null;
}

export interface Models {
  data: Model[];
}

export interface IndexInfo {
  items: number;
  model: string;
  fields: string[];
}

export interface Item {
  id: string;
  text: string | null;
  thumbnail: string | null;
  metadata?: Record<string, unknown>;
}

export interface Items {
  total: number;
  items: Item[];
}

export interface SearchResult extends Item {
  rank: number;
  score: number;
}

export interface SearchAnswer {
  model: string;
  results: SearchResult[];
  searched: number;
  approximate: boolean;
}

export interface VqaAnswer {
  model: string;
  answers: { answer: string; probability: number }[];
}

export interface GroundAnswer {
  model: string;
  by: 'head' | 'map';
  boxes: { box: Box; score: number }[];
}

export interface RelationAnswer {
  model: string;
  /** `null` when the model abstains. */
  relation: string | null;
  confidence: number;
  probabilities: { class: string; probability: number }[];
  text_represented: number | null;
  image_adds: number | null;
  alignment: number | null;
}

export interface MatchAnswer {
  model: string;
  scores: { text: string; cosine: number | null; probability: number | null }[];
}

export interface Word {
  text: string;
  start: number;
  end: number;
  weight: number | null;
  map: number[] | null;
}

/** `window` is the part of the picture that a grid covers; without it, all of the picture. */
export type Places =
  { kind: 'grid'; rows: number; columns: number; window?: Box | null } | { kind: 'boxes'; boxes: Box[] };

export interface ExplainAnswer {
  model: string;
  method: string;
  target: string;
  score: number | null;
  places: Places;
  whole: number[];
  words: Word[];
  selected: { rule: string; whole: number[]; words: Word[]; kept: number[] } | null;
}

export interface ErrorBody {
  error: { message: string; type: string; param: string | null; code: string | null };
}
